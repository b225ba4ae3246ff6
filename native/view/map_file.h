// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/io.h"
#include "view/extents.h"
#include "view/history.h"
#include "view/lru_cache.h"

namespace ep::view {

/// A file that is open for reading as long as somebody holds it.
class OpenFile {
 public:
  OpenFile(io::FileSystem& file_system, io::FileId file) : files_(file_system), file_(file) {}
  ~OpenFile() { files_.close(file_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  [[nodiscard]] io::FileId id() const { return file_; }

 private:
  io::FileSystem& files_;
  io::FileId file_;
};

/// What all map files of a history share.
struct MapCaches {
  explicit MapCaches(io::FileSystem& file_system) : files(file_system) {}
  io::FileSystem& files;
  LruCache<OpenFile> open{kOpenFilesMax};
  LruCache<std::vector<Extent>> blocks{kBlockCacheBytes};
};

/// One delta map: index, bitmap and segment table in memory (a thousandth of the file), blocks on
/// demand.
class MapFile {
 public:
  /// kCorruption, kUnsupported, kNotFound, kIoError. `slot` tells maps apart in the caches.
  static Result<std::unique_ptr<MapFile>> open(MapCaches& caches, uint32_t slot,
                                               const std::string& path);

  [[nodiscard]] const format::MapHeader& header() const { return header_; }
  [[nodiscard]] const std::vector<format::MapSegment>& segments() const { return segments_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Appends what reaches into [from, to) (positions of one volume), ascending, not clipped.
  /// `source` is an index into segments().
  Status lookup(uint64_t from, uint64_t to, std::vector<Extent>& out, History::Counters& counters);

 private:
  MapFile(MapCaches& caches, uint32_t slot, std::string path)
      : caches_(caches), slot_(slot), path_(std::move(path)) {}
  Status load();
  Result<std::vector<uint8_t>> section(io::FileId file, const format::MapSection& section,
                                       const char* what) const;
  Result<std::shared_ptr<const OpenFile>> file();
  Result<std::shared_ptr<const std::vector<Extent>>> block(size_t number,
                                                           History::Counters& counters);
  [[nodiscard]] Status in_file(const Status& status) const;

  MapCaches& caches_;
  uint32_t slot_;
  std::string path_;
  format::MapHeader header_;
  std::vector<format::MapSegment> segments_;
  std::vector<format::MapBlockPlace> blocks_;
  format::MapBitmap bitmap_;
};

}  // namespace ep::view
