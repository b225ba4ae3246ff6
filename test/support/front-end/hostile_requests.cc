// SPDX-License-Identifier: Apache-2.0
//
// Malformed requests on a healthy connection: bad chains, bad buffers, bad ranges.
#include "front-end/hostile_internal.h"

namespace ep::front_end {

namespace {

constexpr uint16_t kNextWrite = kDescNext | kDescWrite;

void add_chain_attacks(std::vector<RequestAttack>* out) {
  out->push_back({"next_out_of_range", "a next index past the table", true, [](RawRequest& r) {
                    r.io_chain(kBlkIn, 0, r.data, 4096);
                    r.descriptor(1, r.data, 4096, kNextWrite, 0xfff0);
                  }});
  out->push_back({"next_loop", "a chain that ends in its own start", true, [](RawRequest& r) {
                    r.io_chain(kBlkIn, 0, r.data, 4096);
                    r.descriptor(1, r.data, 4096, kNextWrite, r.absolute(0));
                  }});
  out->push_back({"next_self", "a descriptor that follows itself", true, [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.descriptor(0, r.header_guest, 16, kDescNext, r.absolute(0));
                  }});
  out->push_back({"header_only", "a header, no status", true, [](RawRequest& r) {
                    r.header(kBlkFlush, 0);
                    r.chain({r.header_segment()});
                  }});
  out->push_back({"status_only", "a status, no header", true,
                  [](RawRequest& r) { r.chain({r.status_segment()}); }});
  out->push_back({"header_writable", "a header for the device to write", true, [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.chain({{r.header_guest, 16, true}, {r.data, 512, true}, r.status_segment()});
                  }});
  out->push_back(
      {"header_short", "a header of 8 bytes and nothing to read after it", true, [](RawRequest& r) {
         r.header(kBlkIn, 0);
         r.chain({{r.header_guest, 8, false}, {r.data, 512, true}, r.status_segment()});
       }});
  out->push_back({"status_read_only", "a status the device may not write", true, [](RawRequest& r) {
                    r.header(kBlkOut, 0);
                    r.chain({r.header_segment(), {r.data, 512, false}, {r.status_guest, 1, false}});
                  }});
  out->push_back({"status_missing", "a read whose last buffer is sectors, not status", true,
                  [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.chain({r.header_segment(), {r.data, 512, true}});
                  }});
  out->push_back({"status_empty", "a status of 0 bytes", true, [](RawRequest& r) {
                    r.header(kBlkFlush, 0);
                    r.chain({r.header_segment(), {r.status_guest, 0, true}});
                  }});
  out->push_back({"write_data_writable", "a write from buffers that the device may write", true,
                  [](RawRequest& r) {
                    r.header(kBlkOut, 0);
                    r.chain({r.header_segment(), {r.data, 512, true}, r.status_segment()});
                  }});
  out->push_back({"read_data_read_only", "a read into buffers that the device may only read", true,
                  [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.chain({r.header_segment(), {r.data, 512, false}, r.status_segment()});
                  }});
  out->push_back({"readable_after_writable", "directions out of order", true, [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.chain({r.header_segment(),
                             {r.data, 512, true},
                             {r.data + 512, 512, false},
                             r.status_segment()});
                  }});
}

void add_address_attacks(std::vector<RequestAttack>* out) {
  out->push_back({"buffer_outside", "data outside the memory table", true, [](RawRequest& r) {
                    r.io_chain(kBlkIn, 0, r.end_of_memory() + (1 << 20), 4096);
                  }});
  out->push_back({"buffer_at_zero", "data at guest address 0", true,
                  [](RawRequest& r) { r.io_chain(kBlkOut, 0, 0, 4096); }});
  out->push_back({"buffer_past_end", "data that starts inside and ends outside", true,
                  [](RawRequest& r) { r.io_chain(kBlkOut, 0, r.end_of_memory() - 512, 4096); }});
  out->push_back({"buffer_wraps", "data that wraps the address space", true,
                  [](RawRequest& r) { r.io_chain(kBlkIn, 0, ~uint64_t{0} - 511, 4096); }});
  out->push_back({"buffer_huge", "data of 4 GiB - 512", true,
                  [](RawRequest& r) { r.io_chain(kBlkOut, 0, r.data, 0xfffffe00); }});
  out->push_back({"header_outside", "a header outside the memory table", true, [](RawRequest& r) {
                    r.chain({{r.end_of_memory(), 16, false}, r.status_segment()});
                  }});
  out->push_back({"status_outside", "a status outside the memory table", true, [](RawRequest& r) {
                    r.header(kBlkFlush, 0);
                    r.chain({r.header_segment(), {r.end_of_memory() + 5, 1, true}});
                  }});
}

void add_indirect_attacks(std::vector<RequestAttack>* out) {
  auto table_chain = [](RawRequest& r) {
    r.header(kBlkIn, 0);
    r.table_entry(0, {r.header_guest, 16, kDescNext, 1});
    r.table_entry(1, {r.data, 512, kNextWrite, 2});
    r.table_entry(2, {r.status_guest, 1, kDescWrite, 0});
  };
  auto with_table = [=](uint32_t bytes, uint16_t extra_flags) {
    return [=](RawRequest& r) {
      table_chain(r);
      r.descriptor(0, r.table, bytes, static_cast<uint16_t>(kDescIndirect | extra_flags),
                   r.absolute(1));
      r.descriptor(1, r.status_guest, 1, kDescWrite, 0);
    };
  };
  out->push_back({"indirect_not_negotiated", "an indirect table without the feature", true,
                  with_table(48, 0), true});
  out->push_back({"indirect_empty", "an indirect table of 0 bytes", true, with_table(0, 0)});
  out->push_back({"indirect_odd", "an indirect table of 47 bytes", true, with_table(47, 0)});
  // Forbidden to the driver; some back-ends follow the table and ignore the flag.
  out->push_back({"indirect_and_next", "INDIRECT and NEXT in one descriptor", false,
                  with_table(48, kDescNext)});
  out->push_back(
      {"indirect_outside", "an indirect table outside the memory table", true,
       [](RawRequest& r) { r.descriptor(0, r.end_of_memory() + 4096, 48, kDescIndirect, 0); }});
  out->push_back(
      {"indirect_past_end", "an indirect table that ends outside", true,
       [](RawRequest& r) { r.descriptor(0, r.end_of_memory() - 16, 48, kDescIndirect, 0); }});
  out->push_back(
      {"indirect_nested", "an indirect table inside an indirect table", true, [=](RawRequest& r) {
         table_chain(r);
         r.table_entry(0, {r.table, 48, kDescIndirect, 0});
         r.descriptor(0, r.table, 48, kDescIndirect, 0);
       }});
  out->push_back({"indirect_next_out_of_range", "a next index past the indirect table", true,
                  [=](RawRequest& r) {
                    table_chain(r);
                    r.table_entry(1, {r.data, 512, kNextWrite, 3});
                    r.descriptor(0, r.table, 48, kDescIndirect, 0);
                  }});
  out->push_back({"indirect_loop", "a loop inside an indirect table", true, [=](RawRequest& r) {
                    table_chain(r);
                    r.table_entry(1, {r.data, 512, kNextWrite, 1});
                    r.descriptor(0, r.table, 48, kDescIndirect, 0);
                  }});
  out->push_back({"indirect_too_long", "a chain of 4096 buffers in an indirect table", true,
                  [](RawRequest& r) {
                    r.header(kBlkIn, 0);
                    r.table_entry(0, {r.header_guest, 16, kDescNext, 1});
                    for (uint16_t i = 1; i < 4095; i++) {
                      r.table_entry(i, {r.data, 512, kNextWrite, static_cast<uint16_t>(i + 1)});
                    }
                    r.table_entry(4095, {r.status_guest, 1, kDescWrite, 0});
                    r.descriptor(0, r.table, 4096 * 16, kDescIndirect, 0);
                  }});
}

void add_range_attacks(std::vector<RequestAttack>* out) {
  auto io = [&](const char* name, const char* what, uint32_t type, bool expects, auto sector,
                uint32_t length) {
    out->push_back({name, what, expects, [=](RawRequest& r) {
                      r.io_chain(type, sector(r.capacity_sectors()), r.data, length);
                    }});
  };
  io(
      "read_past_end", "a read after the last sector", kBlkIn, true, [](uint64_t c) { return c; },
      512);
  io(
      "write_past_end", "a write after the last sector", kBlkOut, true,
      [](uint64_t c) { return c; }, 512);
  io(
      "write_over_end", "a write that begins on the disk and ends after it", kBlkOut, true,
      [](uint64_t c) { return c - 1; }, 1024);
  io(
      "sector_max", "sector 2^64 - 1", kBlkOut, true, [](uint64_t) { return ~uint64_t{0}; }, 512);
  io(
      "sector_overflow", "a sector whose byte offset overflows to 0", kBlkOut, true,
      [](uint64_t) { return uint64_t{1} << 55; }, 512);
  io(
      "odd_write", "a write of 513 bytes", kBlkOut, true, [](uint64_t) { return 0; }, 513);
  io(
      "odd_read", "a read of 511 bytes", kBlkIn, true, [](uint64_t) { return 0; }, 511);
  // An empty transfer is no breach of the rules; either answer is right.
  io(
      "zero_length_descriptor", "a write whose buffer has no bytes", kBlkOut, false,
      [](uint64_t) { return 0; }, 0);
  out->push_back({"write_without_data", "a write of no data", false, [](RawRequest& r) {
                    r.header(kBlkOut, 0);
                    r.chain({r.header_segment(), r.status_segment()});
                  }});
  out->push_back({"unknown_type", "request type 99", true,
                  [](RawRequest& r) { r.io_chain(99, 0, r.data, 512); }});
  out->push_back({"get_id_short", "GET_ID into 4 bytes", false, [](RawRequest& r) {
                    r.header(kBlkGetId, 0);
                    r.chain({r.header_segment(), {r.data, 4, true}, r.status_segment()});
                  }});
  out->push_back({"flush_with_data", "a flush that carries data", false,
                  [](RawRequest& r) { r.io_chain(kBlkFlush, 0, r.data, 512); }});
}

void add_discard_attacks(std::vector<RequestAttack>* out) {
  for (uint32_t type : {kBlkDiscard, kBlkWriteZeroes}) {
    const std::string name = type == kBlkDiscard ? "discard" : "write_zeroes";
    auto add = [&](const char* suffix, const char* what, auto build) {
      out->push_back({name + suffix, name + what, true, [=](RawRequest& r) { build(r, type); }});
    };
    add("_many_segments", " of 300 ranges", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{0, 8, 0}, {8, 8, 0}, {16, 8, 0}}, 300 * sizeof(BlkRange));
    });
    add("_overflow", " whose end overflows", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{~uint64_t{0} - 3, 8, 0}}, sizeof(BlkRange));
    });
    add("_past_end", " after the last sector", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{r.capacity_sectors() - 1, 8, 0}}, sizeof(BlkRange));
    });
    add("_huge", " of 2^32 - 1 sectors", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{1, 0xffffffff, 0}}, sizeof(BlkRange));
    });
    add("_short", " with 15 bytes of range", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{0, 8, 0}}, 15);
    });
    add("_empty", " with no range", [](RawRequest& r, uint32_t t) {
      r.header(t, 0);
      r.chain({r.header_segment(), r.status_segment()});
    });
    add("_flags", " with unknown flags", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{0, 8, 0xfffffff0}}, sizeof(BlkRange));
    });
    add("_writable", " whose range the device may write", [](RawRequest& r, uint32_t t) {
      r.range_chain(t, {{0, 8, 0}}, sizeof(BlkRange));
      r.descriptor(1, r.data, sizeof(BlkRange), kNextWrite, r.absolute(2));
    });
  }
}

}  // namespace

std::vector<RequestAttack> request_attacks() {
  std::vector<RequestAttack> all;
  add_chain_attacks(&all);
  add_address_attacks(&all);
  add_indirect_attacks(&all);
  add_range_attacks(&all);
  add_discard_attacks(&all);
  return all;
}

}  // namespace ep::front_end
