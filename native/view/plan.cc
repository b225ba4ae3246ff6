// SPDX-License-Identifier: Apache-2.0
#include "view/plan.h"

#include <algorithm>

#include "view/manifest.h"

namespace ep::view {

namespace {

/// YYYY-MM-DD
bool is_day(const std::string& name) {
  if (name.size() != 10) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool dash = i == 4 || i == 7;
    if (dash ? name[i] != '-' : name[i] < '0' || name[i] > '9') return false;
  }
  return true;
}

class Planner {
 public:
  Planner(const History::Input& input, uint64_t through_lsn, SegmentStore& store, MapCaches& caches)
      : in_(input),
        fs_(*input.file_system),
        through_(through_lsn),
        store_(store),
        caches_(caches) {}

  Result<Plan> run() {
    EP_TRY(read_manifests());
    EP_TRY(find_segments());
    end_given_up_segments();
    EP_TRY(compose());
    EP_TRY(check_end());
    return std::move(plan_);
  }

 private:
  /// A segment file that is there and holds entries.
  struct Segment {
    uint64_t number = 0;
    uint32_t slot = 0;
    uint64_t first_lsn = 0;
    uint64_t last_lsn = 0;
  };

  /// What a manifest says there is; segment 0 is a map.
  struct Recorded {
    uint64_t segment = 0;
    uint64_t first_lsn = 0;
    uint64_t last_lsn = 0;
  };

  Status read_manifests() {
    for (const log::DeviceFolder& device : in_.devices) {
      const std::string path = device.folder + "/manifest";
      auto manifest = read_manifest(fs_, path, in_.group);
      if (!manifest) {
        // The segments may have everything that it names. If not, this is why.
        if (manifest.status().code() != Code::kNotFound) note(manifest.status());
        continue;
      }
      for (ManifestMap& map : manifest->maps) {
        if (map.last_lsn < map.first_lsn) continue;
        recorded_ends_.push_back({0, map.first_lsn, map.last_lsn});
        maps_.push_back(std::move(map));
      }
      for (ManifestSegment& segment : manifest->segments) {
        recorded_ends_.push_back({segment.segment, segment.first_lsn, segment.last_lsn});
        recorded_.push_back(std::move(segment));
      }
      gaps_.insert(gaps_.end(), manifest->gaps.begin(), manifest->gaps.end());
    }
    return Status::ok();
  }

  Status find_segments() {
    std::vector<std::pair<uint64_t, Status>> unreadable;
    for (const log::DeviceFolder& device : in_.devices) {
      const std::string log_folder = device.folder + "/log";
      const auto days = fs_.list(log_folder);
      if (!days) {
        if (days.status().code() == Code::kNotFound) continue;
        return days.status();
      }
      for (const std::string& day : *days) {
        if (!is_day(day)) continue;
        const auto names = fs_.list(log_folder + "/" + day);
        if (names.status().code() == Code::kNotFound) continue;  // went away
        if (!names) return names.status();
        for (const std::string& name : *names) {
          const auto number = format::parse_segment_name(name);
          if (!number || *number == 0) continue;
          store_.add({device.device, *number, log_folder + "/" + day + "/" + name});
          const Status status = look_at(device, *number, "log/" + day + "/" + name);
          if (status) continue;
          if (status.code() != Code::kCorruption) return status;
          unreadable.emplace_back(*number, status);
        }
      }
    }
    std::sort(segments_.begin(), segments_.end(),
              [](const Segment& a, const Segment& b) { return a.number < b.number; });
    for (const auto& [number, status] : unreadable) {
      // Entries that it had and no other has leave a hole that is seen, but for those of the end.
      if (segments_.empty() || number > segments_.back().number) return status;
      note(status);
    }
    return Status::ok();
  }

  /// Adds the segment with its LSNs, from the manifest where that knows them.
  Status look_at(const log::DeviceFolder& device, uint64_t number, const std::string& path) {
    const uint32_t slot = store_.slot_of(device.device, number);
    for (const ManifestSegment& record : recorded_) {
      if (record.segment != number || record.device != device.device || record.path != path) {
        continue;
      }
      segments_.push_back({number, slot, record.first_lsn, record.last_lsn});
      return Status::ok();
    }
    auto opened = log::SegmentReader::open(fs_, store_.location(slot).path, in_.group, number);
    if (!opened) {
      // Freed since the listing, never written to, or somebody else's: nothing of this history.
      const Code code = opened.status().code();
      if (code == Code::kNotFound || code == Code::kInvalidArgument) return Status::ok();
      return opened.status();
    }
    const log::SegmentReader& reader = **opened;
    if (reader.batches().empty()) return Status::ok();
    segments_.push_back({number, slot, reader.first_lsn(), reader.last_lsn()});
    if (!reader.sealed()) store_.keep(slot, std::move(*opened));
    return Status::ok();
  }

  /// Where two segments hold the same LSNs the one with the higher number counts.
  void end_given_up_segments() {
    uint64_t before = ~uint64_t{0};
    for (auto segment = segments_.rbegin(); segment != segments_.rend(); ++segment) {
      const uint64_t first = segment->first_lsn;
      segment->last_lsn = std::min(segment->last_lsn, before - 1);
      before = std::min(before, first);
    }
    std::erase_if(segments_, [](const Segment& each) { return each.last_lsn < each.first_lsn; });
    std::sort(segments_.begin(), segments_.end(),
              [](const Segment& a, const Segment& b) { return a.first_lsn < b.first_lsn; });
  }

  Status compose() {
    uint64_t next = 1;
    while (next <= through_) {
      if (take_map(next) || take_segment(next)) continue;
      const auto behind = first_behind(next);
      if (!behind) break;
      EP_TRY(check_gap(next - 1, *behind));
      next = *behind;
    }
    plan_.last_lsn = plan_.pieces.empty() ? 0 : plan_.pieces.back().last_lsn;
    return Status::ok();
  }

  /// The map that reaches furthest of those that hold `next` and nothing above the end.
  bool take_map(uint64_t& next) {
    for (;;) {
      auto best = maps_.end();
      for (auto map = maps_.begin(); map != maps_.end(); ++map) {
        if (map->first_lsn > next || map->last_lsn < next || map->last_lsn > through_) continue;
        if (best == maps_.end() || map->last_lsn > best->last_lsn) best = map;
      }
      if (best == maps_.end()) return false;
      auto opened = open_map(*best);
      if (!opened) {
        // Its children, or the segments, may still be there.
        note(opened.status());
        maps_.erase(best);
        continue;
      }
      Piece piece;
      piece.first_lsn = best->first_lsn;
      piece.last_lsn = best->last_lsn;
      for (const format::MapSegment& segment : (*opened)->segments()) {
        piece.map_slots.push_back(store_.slot_of(segment.device, segment.segment));
      }
      piece.map = std::move(*opened);
      next = piece.last_lsn + 1;
      plan_.pieces.push_back(std::move(piece));
      return true;
    }
  }

  Result<std::unique_ptr<MapFile>> open_map(const ManifestMap& record) {
    const auto device =
        std::find_if(in_.devices.begin(), in_.devices.end(),
                     [&](const log::DeviceFolder& one) { return one.device == record.device; });
    if (device == in_.devices.end()) {
      return Status(Code::kCorruption, "map " + std::to_string(record.id) + " is on device " +
                                           record.device.to_string() + ", which is not here");
    }
    auto map = MapFile::open(caches_, next_map_slot_++, device->folder + "/" + record.path);
    if (!map) return map.status();
    const format::MapHeader& header = (*map)->header();
    if (header.group != in_.group || header.id != record.id ||
        header.first_lsn != record.first_lsn || header.last_lsn != record.last_lsn) {
      return Status(Code::kCorruption, (*map)->path() + " is not the map that the manifest names");
    }
    return map;
  }

  bool take_segment(uint64_t& next) {
    for (const Segment& segment : segments_) {
      if (segment.first_lsn > next || segment.last_lsn < next) continue;
      Piece piece;
      piece.first_lsn = next;
      piece.last_lsn = std::min(segment.last_lsn, through_);
      piece.slot = segment.slot;
      next = piece.last_lsn + 1;
      plan_.pieces.push_back(std::move(piece));
      return true;
    }
    return false;
  }

  /// The lowest LSN above `next` that something has.
  [[nodiscard]] std::optional<uint64_t> first_behind(uint64_t next) const {
    std::optional<uint64_t> lowest;
    const auto offer = [&](uint64_t first) {
      if (first > next && first <= through_ && (!lowest || first < *lowest)) lowest = first;
    };
    for (const ManifestMap& map : maps_) {
      if (map.last_lsn <= through_) offer(map.first_lsn);
    }
    for (const Segment& segment : segments_) offer(segment.first_lsn);
    return lowest;
  }

  /// LSNs are missing inside gaps only; those between `last` and `next` are.
  Status check_gap(uint64_t last, uint64_t next) {
    bool open_gap = false;
    for (const ManifestGap& gap : gaps_) {
      if (gap.from_lsn > last) continue;
      if (gap.to_lsn && *gap.to_lsn >= next - 1) return Status::ok();
      if (!gap.to_lsn) open_gap = true;
    }
    const auto segment = std::find_if(segments_.begin(), segments_.end(),
                                      [&](const Segment& each) { return each.first_lsn == next; });
    if (segment != segments_.end()) {
      const auto gap = first_entry_gap(*segment);
      if (!gap) return gap.status();
      if (*gap && (*gap)->from_lsn <= last) return Status::ok();
    } else if (open_gap) {
      return Status::ok();
    }
    return missing("LSN " + std::to_string(last + 1) + " to " + std::to_string(next - 1) +
                   " are in no map or segment, and in no recorded gap");
  }

  /// What the segment says of a gap that its epoch begins in, if it does.
  Result<std::optional<format::Gap>> first_entry_gap(const Segment& segment) {
    const auto reader = store_.reader(segment.slot);
    if (!reader) return reader.status();
    if ((*reader)->batches().empty()) return std::optional<format::Gap>();
    const auto table = (*reader)->read_table(0);
    if (!table) return table.status();
    const format::Entry& first = table->entries.front();
    if (first.type != format::EntryType::kGap) return std::optional<format::Gap>();
    std::vector<uint8_t> payload(kSectorBytes);
    EP_TRY((*reader)->read(uint64_t{first.address} * kSectorBytes, payload.data(), payload.size()));
    if (crc32(payload.data(), payload.size()) != first.data_crc) {
      return Status(Code::kCorruption, (*reader)->path() + ": a gap entry fails its checksum");
    }
    auto gap = format::decode_gap(payload);
    if (!gap) return gap.status();
    return std::optional<format::Gap>(std::move(*gap));
  }

  /// What a manifest knows of and nothing has any more would leave no hole if it was the newest.
  Status check_end() {
    for (const Recorded& record : recorded_ends_) {
      const uint64_t end = std::min(record.last_lsn, through_);
      if (record.first_lsn > through_ || end <= plan_.last_lsn) continue;
      // A segment that is there was taken as far as it counts.
      const bool is_here =
          record.segment != 0 &&
          std::any_of(segments_.begin(), segments_.end(),
                      [&](const Segment& each) { return each.number == record.segment; });
      if (!is_here && !check_gap(plan_.last_lsn, end + 1)) {
        // The end may lie among the LSNs that a gap left out.
        EP_TRY(check_gap(plan_.last_lsn, first_segment_behind(end).value_or(end + 1)));
      }
    }
    return Status::ok();
  }

  [[nodiscard]] std::optional<uint64_t> first_segment_behind(uint64_t lsn) const {
    const auto found = std::find_if(segments_.begin(), segments_.end(),
                                    [&](const Segment& each) { return each.first_lsn > lsn; });
    if (found == segments_.end()) return std::nullopt;
    return found->first_lsn;
  }

  /// The first thing that went wrong is why something is missing.
  void note(const Status& status) {
    if (why_) why_ = status;
  }
  [[nodiscard]] Status missing(const std::string& what) const {
    if (why_) return Status(Code::kCorruption, "history: " + what);
    return Status(why_.code() == Code::kNotFound ? Code::kCorruption : why_.code(),
                  "history: " + what + " (" + why_.message() + ")");
  }

  const History::Input& in_;
  io::FileSystem& fs_;
  uint64_t through_;
  SegmentStore& store_;
  MapCaches& caches_;
  std::vector<ManifestMap> maps_;
  std::vector<ManifestSegment> recorded_;
  std::vector<Recorded> recorded_ends_;
  std::vector<ManifestGap> gaps_;
  std::vector<Segment> segments_;
  uint32_t next_map_slot_ = 0;
  Status why_;
  Plan plan_;
};

}  // namespace

Result<Plan> make_plan(const History::Input& input, uint64_t through_lsn, SegmentStore& store,
                       MapCaches& caches) {
  return Planner(input, through_lsn, store, caches).run();
}

}  // namespace ep::view
