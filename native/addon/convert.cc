// SPDX-License-Identifier: Apache-2.0
#include "addon/convert.h"

#include <cmath>

namespace ep::addon {

namespace {

[[noreturn]] void refuse(Napi::Env env, const std::string& what) {
  throw Napi::TypeError::New(env, what);
}

uint64_t read_count(const Napi::Object& from, const char* field, uint64_t absent) {
  const Napi::Value value = from.Get(field);
  if (value.IsUndefined()) return absent;
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0) || number > 9007199254740991.0 || number != std::floor(number)) {
    refuse(from.Env(), std::string(field) + " must be a whole number");
  }
  return static_cast<uint64_t>(number);
}

bool read_flag(const Napi::Object& from, const char* field, bool absent) {
  const Napi::Value value = from.Get(field);
  return value.IsBoolean() ? value.As<Napi::Boolean>().Value() : absent;
}

Napi::Object read_object(const Napi::Object& from, const char* field) {
  const Napi::Value value = from.Get(field);
  if (!value.IsObject()) refuse(from.Env(), std::string(field) + " must be an object");
  return value.As<Napi::Object>();
}

template <typename Each>
void read_list(const Napi::Object& from, const char* field, Each each) {
  const Napi::Value value = from.Get(field);
  if (!value.IsArray()) refuse(from.Env(), std::string(field) + " must be an array");
  const Napi::Array list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value item = list.Get(i);
    if (!item.IsObject()) refuse(from.Env(), std::string(field) + " must hold objects");
    each(item.As<Napi::Object>());
  }
}

double number(uint64_t value) { return static_cast<double>(value); }

volume::VolumeConfig read_volume(const Napi::Object& from) {
  volume::VolumeConfig volume;
  volume.number = static_cast<uint16_t>(read_count(from, "number", 0));
  volume.name = read_string(from, "name");
  volume.block_bytes = static_cast<uint32_t>(read_count(from, "blockSize", 512));
  const Napi::Object primary = read_object(from, "primary");
  volume.path = read_string(primary, "path");
  volume.create = read_flag(primary, "create", false);
  volume.size_bytes = read_count(primary, "sizeBytes", 0);
  read_list(from, "exports", [&](const Napi::Object& door) {
    volume::ExportConfig config;
    config.path = read_string(door, "path");
    config.queues = static_cast<uint32_t>(read_count(door, "queues", 1));
    if (door.Get("uid").IsNumber()) config.uid = static_cast<int64_t>(read_count(door, "uid", 0));
    if (door.Get("gid").IsNumber()) config.gid = static_cast<int64_t>(read_count(door, "gid", 0));
    volume.exports.push_back(std::move(config));
  });
  return volume;
}

Napi::Object to_js(Napi::Env env, const volume::ExportStatus& status) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("kind", "vhost-user-blk");
  to.Set("path", status.path);
  to.Set("connected", status.stats.connected);
  to.Set("connections", number(status.stats.connections));
  to.Set("requests", number(status.stats.requests));
  to.Set("readBytes", number(status.stats.read_bytes));
  to.Set("writeBytes", number(status.stats.write_bytes));
  to.Set("errors", number(status.stats.errors));
  to.Set("malformed", number(status.stats.malformed));
  to.Set("resubmitted", number(status.stats.resubmitted));
  to.Set("inFlight", number(status.stats.in_flight));
  return to;
}

Napi::Object to_js(Napi::Env env, const split::Counters& counters, const log::LogWriterStats& log) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("writes", number(counters.writes));
  to.Set("writeBytes", number(counters.write_bytes));
  to.Set("reads", number(counters.reads));
  to.Set("flushes", number(counters.flushes));
  to.Set("discards", number(counters.discards));
  to.Set("writeZeroes", number(counters.write_zeroes));
  to.Set("markers", number(counters.markers));
  to.Set("batches", number(log.batches));
  to.Set("overlapWaits", number(counters.overlap_waits));
  to.Set("bufferWaits", number(counters.buffer_waits));
  to.Set("primaryErrors", number(counters.primary_errors));
  to.Set("logErrors", number(counters.log_errors));
  to.Set("logMoves", number(counters.log_moves));
  to.Set("resyncBytes", number(counters.resync_bytes));
  to.Set("throttledMs", number(counters.throttled_ns / 1'000'000));
  to.Set("gaps", number(counters.gaps));
  return to;
}

const char* state_name(volume::GroupState state) {
  switch (state) {
    case volume::GroupState::kProtected:
      return "protected";
    case volume::GroupState::kGap:
      return "gap";
    case volume::GroupState::kResyncing:
      return "resyncing";
    case volume::GroupState::kPaused:
      return "paused";
  }
  return "failed";
}

const char* device_state_name(log::DeviceState state) {
  switch (state) {
    case log::DeviceState::kOk:
      return "ok";
    case log::DeviceState::kFailed:
      return "failed";
    case log::DeviceState::kFull:
      return "full";
  }
  return "failed";
}

const char* buffer_kind_name(nvram::BufferKind kind) {
  switch (kind) {
    case nvram::BufferKind::kTmpfs:
      return "tmpfs";
    case nvram::BufferKind::kFile:
      return "file";
    case nvram::BufferKind::kPmem:
      return "pmem";
  }
  return "";
}

nvram::BufferKind read_buffer_kind(const std::string& name) {
  if (name == "file") return nvram::BufferKind::kFile;
  if (name == "pmem") return nvram::BufferKind::kPmem;
  return nvram::BufferKind::kTmpfs;
}

}  // namespace

std::string read_string(const Napi::Object& from, const char* field) {
  const Napi::Value value = from.Get(field);
  if (!value.IsString()) refuse(from.Env(), std::string(field) + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

Uuid read_uuid(const Napi::Value& from, const char* field) {
  const std::string text = from.IsString() ? from.As<Napi::String>().Utf8Value() : std::string();
  auto uuid = Uuid::parse(text);
  if (!uuid) refuse(from.Env(), std::string(field) + ": " + uuid.status().message());
  return *uuid;
}

volume::GroupModes read_modes(const Napi::Object& from) {
  volume::GroupModes modes;
  modes.ack = read_string(from, "ack") == "both" ? split::Ack::kBoth : split::Ack::kPrimary;
  modes.flush = read_string(from, "flush") == "primary" ? split::FlushMode::kPrimary
                                                        : split::FlushMode::kBoth;
  modes.on_log_pressure = read_string(from, "onLogPressure") == "gap"
                              ? split::LogPressure::kGap
                              : split::LogPressure::kThrottle;
  modes.throttle_max_ms = read_count(from, "throttleMaxMs", modes.throttle_max_ms);
  return modes;
}

volume::GroupConfig read_group_config(const Napi::Object& from) {
  volume::GroupConfig config;
  config.id = read_uuid(from.Get("id"), "id");
  config.name = read_string(from, "name");
  config.modes = read_modes(from);
  read_list(from, "devices", [&](const Napi::Object& device) {
    config.devices.push_back(
        {read_uuid(device.Get("id"), "devices.id"), read_string(device, "path")});
  });
  const Napi::Object buffer = read_object(from, "logBuffer");
  config.buffer_kind = read_buffer_kind(read_string(buffer, "kind"));
  if (buffer.Get("path").IsString()) config.buffer_path = read_string(buffer, "path");
  config.buffer_bytes = read_count(buffer, "bytes", config.buffer_bytes);
  config.segment_bytes = read_count(from, "segmentBytes", config.segment_bytes);
  config.seal_after_ms = read_count(from, "sealAfterMs", config.seal_after_ms);
  read_list(from, "volumes",
            [&](const Napi::Object& volume) { config.volumes.push_back(read_volume(volume)); });
  return config;
}

volume::DataPlaneOptions read_options(const Napi::Object& from) {
  volume::DataPlaneOptions options;
  options.state_folder = read_string(from, "stateDir");
  options.reactors = static_cast<uint32_t>(read_count(from, "reactors", 1));
  if (from.Get("faults").IsObject()) {
    const Napi::Object faults = from.Get("faults").As<Napi::Object>();
    options.faults.resubmit_in_flight = read_flag(faults, "resubmitInFlight", true);
    if (faults.Get("primaryDelayUs").IsObject()) {
      const Napi::Object delay = faults.Get("primaryDelayUs").As<Napi::Object>();
      options.faults.primary_delay_us_min = read_count(delay, "min", 0);
      options.faults.primary_delay_us_max = read_count(delay, "max", 0);
      options.faults.primary_delay_seed = read_count(delay, "seed", 1);
    }
  }
  return options;
}

std::string time_text(uint64_t time_ns) { return std::to_string(time_ns); }

Napi::Object to_js(Napi::Env env, const format::Gap& gap) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("fromLsn", number(gap.from_lsn));
  to.Set("toLsn", number(gap.to_lsn));
  to.Set("fromNs", time_text(gap.from_ns));
  to.Set("toNs", time_text(gap.to_ns));
  to.Set("reason", gap.reason);
  to.Set("healed", gap.to_lsn != 0);
  return to;
}

Napi::Object to_js(Napi::Env env, const log::SegmentInfo& info) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("segment", number(info.segment));
  to.Set("device", info.device.to_string());
  to.Set("path", info.path);
  to.Set("epoch", number(info.epoch));
  to.Set("firstLsn", number(info.first_lsn));
  to.Set("lastLsn", number(info.last_lsn));
  to.Set("firstTimeNs", time_text(info.first_time_ns));
  to.Set("lastTimeNs", time_text(info.last_time_ns));
  to.Set("entries", number(info.entries));
  to.Set("dataBytes", number(info.data_bytes));
  to.Set("fileBytes", number(info.file_bytes));
  to.Set("sealed", info.sealed);
  return to;
}

Napi::Object to_js(Napi::Env env, const volume::GroupStatus& status) {
  Napi::Object to = Napi::Object::New(env);
  to.Set("state", state_name(status.state));
  to.Set("reason", status.reason);
  to.Set("lsn", number(status.lsn));
  to.Set("durableLsn", number(status.durable_lsn));
  to.Set("sealedLsn", number(status.sealed_lsn));
  to.Set("epoch", number(status.epoch));
  to.Set("lastTimeNs", time_text(status.last_time_ns));
  to.Set("rpoSeconds", status.rpo_seconds);
  to.Set("logBytes", number(status.log_bytes));
  Napi::Object buffer = Napi::Object::New(env);
  buffer.Set("kind", buffer_kind_name(status.buffer_kind));
  buffer.Set("durable", status.buffer_durable);
  buffer.Set("path", status.buffer_path);
  buffer.Set("bytes", number(status.buffer_bytes));
  buffer.Set("usedBytes", number(status.buffer_used_bytes));
  to.Set("buffer", buffer);
  to.Set("logPressure", status.buffer_bytes == 0
                            ? 0.0
                            : number(status.buffer_used_bytes) / number(status.buffer_bytes));
  to.Set("logTrouble", status.log_trouble);
  if (status.state == volume::GroupState::kResyncing) {
    Napi::Object resync = Napi::Object::New(env);
    resync.Set("leftBytes", number(status.resync_left_bytes));
    resync.Set("totalBytes", number(status.resync_total_bytes));
    to.Set("resync", resync);
  } else {
    to.Set("resync", env.Null());
  }
  Napi::Array devices = Napi::Array::New(env);
  for (uint32_t i = 0; i < status.devices.size(); ++i) {
    Napi::Object device = Napi::Object::New(env);
    device.Set("id", status.devices[i].device.to_string());
    device.Set("state", device_state_name(status.devices[i].state));
    device.Set("reason", status.devices[i].reason);
    devices.Set(i, device);
  }
  to.Set("devices", devices);
  Napi::Array gaps = Napi::Array::New(env);
  for (uint32_t i = 0; i < status.gaps.size(); ++i) gaps.Set(i, to_js(env, status.gaps[i]));
  to.Set("gaps", gaps);
  Napi::Array volumes = Napi::Array::New(env);
  for (uint32_t i = 0; i < status.volumes.size(); ++i) {
    const volume::VolumeStatus& from = status.volumes[i];
    Napi::Object volume = Napi::Object::New(env);
    volume.Set("number", number(from.number));
    volume.Set("name", from.name);
    volume.Set("sizeBytes", number(from.size_bytes));
    volume.Set("dirtyRegions", number(from.dirty_regions));
    Napi::Array doors = Napi::Array::New(env);
    for (uint32_t j = 0; j < from.exports.size(); ++j) doors.Set(j, to_js(env, from.exports[j]));
    volume.Set("exports", doors);
    volumes.Set(i, volume);
  }
  to.Set("volumes", volumes);
  to.Set("counters", to_js(env, status.counters, status.log));
  return to;
}

Napi::Error to_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, code_name(status.code())));
  return error;
}

}  // namespace ep::addon
