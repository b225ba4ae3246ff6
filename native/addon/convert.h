// SPDX-License-Identifier: Apache-2.0
#pragma once

// Between JavaScript values and the data plane's plain structs; the shapes are those of
// src/data-plane/port.ts. Reading throws Napi::TypeError with the field's name; the TypeScript side
// has validated before, so that is a bug there.

#include <napi.h>

#include <string>

#include "volume/data_plane.h"

namespace ep::addon {

volume::GroupConfig read_group_config(const Napi::Object& from);
/// What a definition and a change have in common; all of it must be there.
volume::GroupModes read_modes(const Napi::Object& from);
volume::DataPlaneOptions read_options(const Napi::Object& from);
Uuid read_uuid(const Napi::Value& from, const char* field);
std::string read_string(const Napi::Object& from, const char* field);

Napi::Object to_js(Napi::Env env, const volume::GroupStatus& status);
Napi::Object to_js(Napi::Env env, const log::SegmentInfo& info);
Napi::Object to_js(Napi::Env env, const format::Gap& gap);
/// An Error with `code`, from a failed status.
Napi::Error to_error(Napi::Env env, const Status& status);
std::string time_text(uint64_t time_ns);

}  // namespace ep::addon
