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
  return to;
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

volume::GroupConfig read_group_config(const Napi::Object& from) {
  volume::GroupConfig config;
  config.id = read_uuid(from.Get("id"), "id");
  config.name = read_string(from, "name");
  config.ack = read_string(from, "ack") == "both" ? split::Ack::kBoth : split::Ack::kPrimary;
  config.flush = read_string(from, "flush") == "primary" ? split::FlushMode::kPrimary
                                                         : split::FlushMode::kBoth;
  read_list(from, "devices", [&](const Napi::Object& device) {
    config.devices.push_back(
        {read_uuid(device.Get("id"), "devices.id"), read_string(device, "path")});
  });
  const Napi::Object buffer = read_object(from, "logBuffer");
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
  to.Set("state", status.in_gap ? "gap" : "protected");
  to.Set("reason", status.gap ? status.gap->reason : std::string());
  to.Set("lsn", number(status.lsn));
  to.Set("durableLsn", number(status.durable_lsn));
  to.Set("sealedLsn", number(status.sealed_lsn));
  to.Set("epoch", number(status.epoch));
  to.Set("lastTimeNs", time_text(status.last_time_ns));
  to.Set("rpoSeconds", status.rpo_seconds);
  to.Set("logBytes", number(status.log_bytes));
  Napi::Object buffer = Napi::Object::New(env);
  buffer.Set("kind", "tmpfs");
  buffer.Set("path", status.buffer_path);
  buffer.Set("bytes", number(status.buffer_bytes));
  buffer.Set("usedBytes", number(status.buffer_used_bytes));
  to.Set("buffer", buffer);
  Napi::Array gaps = Napi::Array::New(env);
  if (status.gap) gaps.Set(uint32_t{0}, to_js(env, *status.gap));
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
