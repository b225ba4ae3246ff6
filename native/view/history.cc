// SPDX-License-Identifier: Apache-2.0
#include "view/history.h"

#include <algorithm>
#include <cstring>

#include "view/plan.h"
#include "view/segment_index.h"

namespace ep::view {

namespace {

/// [from, to) of positions.
struct Range {
  uint64_t from = 0;
  uint64_t to = 0;
};

}  // namespace

class History::Composition {
 public:
  Composition(const Input& input)
      : store_(*input.file_system, input.group), caches_(*input.file_system) {}

  Status start(const Input& input, uint64_t through_lsn) {
    auto plan = make_plan(input, through_lsn, store_, caches_);
    if (!plan) return plan.status();
    plan_ = std::move(*plan);
    for (const Piece& piece : plan_.pieces) ++(piece.map ? counters_.maps : counters_.segments);
    return Status::ok();
  }

  Status read(uint16_t volume, uint64_t sector, uint64_t sectors, uint8_t* to,
              std::vector<bool>* known) {
    if (known != nullptr) known->assign(sectors, true);
    for (uint64_t done = 0; done < sectors;) {
      const uint64_t size = std::min(sectors - done, kWindowSectors);
      const uint64_t from = format::position_of(volume, sector + done);
      EP_TRY(read_window({from, from + size}, to + done * kSectorBytes, known, done));
      done += size;
    }
    return Status::ok();
  }

  [[nodiscard]] uint64_t last_lsn() const { return plan_.last_lsn; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  Status read_window(Range window, uint8_t* to, std::vector<bool>* known, uint64_t known_at) {
    wants_.clear();
    open_.assign(1, window);
    for (size_t i = plan_.pieces.size(); i-- > 0 && !open_.empty();) {
      found_.clear();
      EP_TRY(lookup(i, {open_.front().from, open_.back().to}));
      if (found_.empty()) continue;
      EP_TRY(lay_under(window, to, known, known_at));
    }
    for (const Range& never : open_) {
      std::memset(to + (never.from - window.from) * kSectorBytes, 0,
                  (never.to - never.from) * kSectorBytes);
    }
    return store_.gather(wants_, counters_);
  }

  /// Fills found_ with what a piece says, `source` being a slot.
  Status lookup(size_t number, Range range) {
    Piece& piece = plan_.pieces[number];
    if (piece.map) {
      EP_TRY(piece.map->lookup(range.from, range.to, found_, counters_));
      for (Extent& extent : found_) {
        if (extent.source < format::kMapUnknown) extent.source = piece.map_slots[extent.source];
      }
      return Status::ok();
    }
    auto index = indexes_.get(number);
    if (!index) {
      const auto reader = store_.reader(piece.slot);
      if (!reader) return reader.status();
      if ((*reader)->first_lsn() > piece.first_lsn || (*reader)->last_lsn() < piece.last_lsn) {
        return Status(Code::kCorruption, (*reader)->path() + " does not hold LSN " +
                                             std::to_string(piece.first_lsn) + " to " +
                                             std::to_string(piece.last_lsn));
      }
      auto built = SegmentIndex::build(**reader, piece.first_lsn, piece.last_lsn, counters_);
      if (!built) return built.status();
      index = *built;
      indexes_.put(number, index, index->memory_bytes() + 64);
    }
    index->lookup(range.from, range.to, piece.slot, found_);
    return Status::ok();
  }

  /// Takes found_ where nothing newer was found, and leaves in open_ what is still to be found.
  Status lay_under(Range window, uint8_t* to, std::vector<bool>* known, uint64_t known_at) {
    still_open_.clear();
    auto extent = found_.begin();
    for (const Range& range : open_) {
      uint64_t at = range.from;
      while (extent != found_.end() && end_of(*extent) <= at) ++extent;
      for (auto next = extent; next != found_.end() && next->position < range.to; ++next) {
        const uint64_t from = std::max(next->position, at);
        const uint64_t end = std::min(end_of(*next), range.to);
        if (from > at) still_open_.push_back({at, from});
        EP_TRY(take(*next, {from, end}, window, to, known, known_at));
        at = end;
      }
      if (at < range.to) still_open_.push_back({at, range.to});
    }
    open_.swap(still_open_);
    return Status::ok();
  }

  Status take(const Extent& extent, Range part, Range window, uint8_t* to, std::vector<bool>* known,
              uint64_t known_at) {
    const uint64_t at = part.from - window.from;
    const uint64_t sectors = part.to - part.from;
    uint8_t* target = to + at * kSectorBytes;
    if (extent.source < format::kMapUnknown) {
      wants_.push_back({extent.source,
                        static_cast<uint32_t>(extent.address + (part.from - extent.position)),
                        static_cast<uint32_t>(sectors), target});
      return Status::ok();
    }
    std::memset(target, 0, sectors * kSectorBytes);
    if (extent.source == format::kMapZero) return Status::ok();
    if (known == nullptr) {
      return Status(Code::kIoError, "history does not know the content of " +
                                        std::to_string(sectors) + " sectors of the range");
    }
    const auto first = known->begin() + static_cast<ptrdiff_t>(known_at + at);
    std::fill(first, first + static_cast<ptrdiff_t>(sectors), false);
    return Status::ok();
  }

  SegmentStore store_;
  MapCaches caches_;
  Plan plan_;
  LruCache<SegmentIndex> indexes_{kIndexCacheBytes};
  Counters counters_;
  // Of one window; members so that their memory is kept.
  std::vector<SegmentStore::Want> wants_;
  std::vector<Extent> found_;
  std::vector<Range> open_;
  std::vector<Range> still_open_;
};

History::History(std::unique_ptr<Composition> composition) : composition_(std::move(composition)) {}
History::~History() = default;

Result<std::unique_ptr<History>> History::open(const Input& input, uint64_t through_lsn) {
  EP_ASSERT(input.file_system != nullptr);
  auto composition = std::make_unique<Composition>(input);
  EP_TRY(composition->start(input, through_lsn));
  return std::unique_ptr<History>(new History(std::move(composition)));
}

Status History::read(uint16_t volume, uint64_t offset, uint64_t length, uint8_t* to,
                     std::vector<bool>* known) {
  constexpr uint64_t kBytesMax = format::kVolumeSectorsMax * kSectorBytes;
  if (!is_aligned(offset, kSectorBytes) || !is_aligned(length, kSectorBytes) ||
      offset > kBytesMax || length > kBytesMax - offset) {
    return Status(Code::kInvalidArgument, "history is read by sectors of a volume");
  }
  return composition_->read(volume, offset / kSectorBytes, length / kSectorBytes, to, known);
}

uint64_t History::last_lsn() const { return composition_->last_lsn(); }
const History::Counters& History::counters() const { return composition_->counters(); }

}  // namespace ep::view
