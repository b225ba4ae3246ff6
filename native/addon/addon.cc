// SPDX-License-Identifier: Apache-2.0

// The Node addon: thin. Every call of the data plane blocks, so each runs on libuv's pool and
// answers by a promise; events come from reactor threads through one thread-safe function. The
// shapes are declared in src/data-plane/native-types.ts.

#include <napi.h>

#include <functional>
#include <memory>
#include <utility>

#include "addon/convert.h"
#include "nvram/pmem_region.h"

namespace ep::addon {

namespace {

/// Runs `work` on the pool, then settles the promise with what it came to.
template <typename T>
class Call : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result<T>()>;
  using Answer = std::function<Napi::Value(Napi::Env, const T&)>;

  static Napi::Value run(Napi::Env env, Work work, Answer answer) {
    auto* call = new Call(env, std::move(work), std::move(answer));
    const Napi::Promise promise = call->deferred_.Promise();
    call->Queue();
    return promise;
  }

 protected:
  void Execute() override { result_.emplace(work_()); }
  void OnOK() override {
    if (result_->is_ok()) {
      deferred_.Resolve(answer_(Env(), **result_));
    } else {
      deferred_.Reject(to_error(Env(), result_->status()).Value());
    }
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Call(Napi::Env env, Work work, Answer answer)
      : AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        answer_(std::move(answer)) {}

  Napi::Promise::Deferred deferred_;
  Work work_;
  Answer answer_;
  std::optional<Result<T>> result_;
};

struct Nothing {};
Napi::Value undefined(Napi::Env env, const Nothing&) { return env.Undefined(); }

Result<Nothing> nothing(const Status& status) {
  if (status) return Nothing{};
  return status;
}

}  // namespace

class DataPlaneObject : public Napi::ObjectWrap<DataPlaneObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "DataPlane",
                       {InstanceMethod<&DataPlaneObject::open_group>("openGroup"),
                        InstanceMethod<&DataPlaneObject::close_group>("closeGroup"),
                        InstanceMethod<&DataPlaneObject::update_group>("updateGroup"),
                        InstanceMethod<&DataPlaneObject::pause>("pause"),
                        InstanceMethod<&DataPlaneObject::resume>("resume"),
                        InstanceMethod<&DataPlaneObject::status>("status"),
                        InstanceMethod<&DataPlaneObject::add_marker>("addMarker"),
                        InstanceMethod<&DataPlaneObject::sync_log>("syncLog"),
                        InstanceMethod<&DataPlaneObject::seal>("seal"),
                        InstanceMethod<&DataPlaneObject::list_segments>("listSegments"),
                        InstanceMethod<&DataPlaneObject::notes>("notes"),
                        InstanceMethod<&DataPlaneObject::close>("close")});
  }

  explicit DataPlaneObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    const Napi::Env env = info.Env();
    if (!info[0].IsObject()) throw Napi::TypeError::New(env, "DataPlane takes its options");
    const Napi::Object options = info[0].As<Napi::Object>();
    if (!options.Get("onEvent").IsFunction()) {
      throw Napi::TypeError::New(env, "onEvent must be a function");
    }
    events_ = std::make_shared<Events>();
    // An environment that ends (exit, a worker's end) frees the function before this object's
    // destructor runs: the finalizer says so, or close() would release freed memory and hang.
    events_->function =
        Napi::ThreadSafeFunction::New(env, options.Get("onEvent").As<Napi::Function>(),
                                      "everpoint events", 0, 1, [sink = events_](Napi::Env) {
                                        const std::lock_guard lock(sink->mutex);
                                        sink->open = false;
                                      });
    // Events alone keep no process alive.
    events_->function.Unref(env);
    volume::DataPlaneEvents events;
    events.sealed = [sink = events_](const Uuid& group, const log::SegmentInfo& info_sealed) {
      sink->send([group, info_sealed](Napi::Env js, Napi::Object event) {
        event.Set("kind", "sealed");
        event.Set("group", group.to_string());
        event.Set("segment", to_js(js, info_sealed));
      });
    };
    events.gap = [sink = events_](const Uuid& group, const format::Gap& gap) {
      sink->send([group, gap](Napi::Env js, Napi::Object event) {
        event.Set("kind", "gap");
        event.Set("group", group.to_string());
        event.Set("gap", to_js(js, gap));
      });
      sink->send([group, gap](Napi::Env, Napi::Object event) {
        event.Set("kind", "state");
        event.Set("group", group.to_string());
        event.Set("state", gap.to_lsn == 0 ? "gap" : "protected");
        event.Set("reason", gap.to_lsn == 0 ? gap.reason : std::string());
      });
    };
    auto plane = volume::DataPlane::create(read_options(options), std::move(events));
    if (!plane) {
      events_->close();
      throw to_error(env, plane.status());
    }
    plane_ = std::move(*plane);
  }

  ~DataPlaneObject() override {
    plane_.reset();
    events_->close();
  }

 private:
  using Fill = std::function<void(Napi::Env, Napi::Object)>;

  /// Outlives the object while reactors may still report.
  struct Events {
    Napi::ThreadSafeFunction function;
    bool open = true;
    std::mutex mutex;

    void send(Fill fill) {
      const std::lock_guard lock(mutex);
      if (!open) return;
      auto* message = new Fill(std::move(fill));
      const napi_status sent = function.NonBlockingCall(
          message, [](Napi::Env env, Napi::Function listener, Fill* arrived) {
            const std::unique_ptr<Fill> owned(arrived);
            if (env == nullptr) return;
            const Napi::HandleScope scope(env);
            Napi::Object event = Napi::Object::New(env);
            (*owned)(env, event);
            listener.Call({event});
          });
      if (sent != napi_ok) delete message;
    }

    void close() {
      const std::lock_guard lock(mutex);
      if (!open) return;
      open = false;
      function.Release();
    }
  };

  std::shared_ptr<volume::DataPlane> plane() { return plane_; }

  Napi::Value open_group(const Napi::CallbackInfo& info) {
    if (!info[0].IsObject() || !info[1].IsObject()) {
      throw Napi::TypeError::New(info.Env(), "openGroup takes a definition and options");
    }
    const volume::GroupConfig config = read_group_config(info[0].As<Napi::Object>());
    const bool create = info[1].As<Napi::Object>().Get("create").ToBoolean().Value();
    return Call<volume::GroupStatus>::run(
        info.Env(), [plane = plane(), config, create] { return plane->open_group(config, create); },
        [](Napi::Env env, const volume::GroupStatus& status) { return to_js(env, status); });
  }

  Napi::Value close_group(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    const bool forget =
        info[1].IsObject() && info[1].As<Napi::Object>().Get("forget").ToBoolean().Value();
    return Call<Nothing>::run(
        info.Env(),
        [plane = plane(), id, forget] { return nothing(plane->close_group(id, forget)); },
        undefined);
  }

  Napi::Value update_group(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    if (!info[1].IsObject()) throw Napi::TypeError::New(info.Env(), "updateGroup takes a change");
    const Napi::Object change = info[1].As<Napi::Object>();
    const volume::GroupModes modes = read_modes(change);
    return Call<Nothing>::run(
        info.Env(), [plane = plane(), id, modes] { return nothing(plane->set_modes(id, modes)); },
        undefined);
  }

  Napi::Value pause(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    return Call<Nothing>::run(
        info.Env(), [plane = plane(), id] { return nothing(plane->pause(id)); }, undefined);
  }

  Napi::Value resume(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    return Call<Nothing>::run(
        info.Env(), [plane = plane(), id] { return nothing(plane->resume(id)); }, undefined);
  }

  Napi::Value status(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    return Call<volume::GroupStatus>::run(
        info.Env(), [plane = plane(), id] { return plane->status(id); },
        [](Napi::Env env, const volume::GroupStatus& status) { return to_js(env, status); });
  }

  Napi::Value add_marker(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    if (!info[1].IsObject()) throw Napi::TypeError::New(info.Env(), "addMarker takes a marker");
    const Napi::Object marker = info[1].As<Napi::Object>();
    const std::string label = read_string(marker, "label");
    uint64_t keep_until_ns = 0;
    if (marker.Get("keepUntilNs").IsString()) {
      const std::string text = read_string(marker, "keepUntilNs");
      if (text == "forever") {
        keep_until_ns = format::kKeepForever;
      } else {
        keep_until_ns = std::strtoull(text.c_str(), nullptr, 10);
        if (keep_until_ns == 0) {
          throw Napi::TypeError::New(info.Env(), "keepUntilNs must be nanoseconds or 'forever'");
        }
      }
    }
    return Call<volume::Group::Marked>::run(
        info.Env(),
        [plane = plane(), id, label, keep_until_ns] {
          return plane->add_marker(id, label, keep_until_ns);
        },
        [](Napi::Env env, const volume::Group::Marked& marked) {
          Napi::Object to = Napi::Object::New(env);
          to.Set("lsn", static_cast<double>(marked.lsn));
          to.Set("timeNs", time_text(marked.time_ns));
          return to;
        });
  }

  Napi::Value sync_log(const Napi::CallbackInfo& info) {
    return lsn_call(info, "durableLsn", &volume::DataPlane::sync_log);
  }

  Napi::Value seal(const Napi::CallbackInfo& info) {
    return lsn_call(info, "sealedLsn", &volume::DataPlane::seal);
  }

  Napi::Value lsn_call(const Napi::CallbackInfo& info, const char* field,
                       Result<uint64_t> (volume::DataPlane::*method)(const Uuid&)) {
    const Uuid id = read_uuid(info[0], "group");
    return Call<uint64_t>::run(
        info.Env(), [plane = plane(), id, method] { return (*plane.*method)(id); },
        [field](Napi::Env env, const uint64_t& lsn) {
          Napi::Object to = Napi::Object::New(env);
          to.Set(field, static_cast<double>(lsn));
          return to;
        });
  }

  Napi::Value list_segments(const Napi::CallbackInfo& info) {
    const Uuid id = read_uuid(info[0], "group");
    const double after = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    const uint64_t number = after > 0 ? static_cast<uint64_t>(after) : 0;
    return Call<std::vector<log::SegmentInfo>>::run(
        info.Env(), [plane = plane(), id, number] { return plane->segments(id, number); },
        [](Napi::Env env, const std::vector<log::SegmentInfo>& list) {
          Napi::Array to = Napi::Array::New(env, list.size());
          for (uint32_t i = 0; i < list.size(); ++i) to.Set(i, to_js(env, list[i]));
          return to;
        });
  }

  Napi::Value notes(const Napi::CallbackInfo& info) {
    const std::vector<std::string> list = plane_->notes();
    Napi::Array to = Napi::Array::New(info.Env(), list.size());
    for (uint32_t i = 0; i < list.size(); ++i) to.Set(i, list[i]);
    return to;
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    return Call<Nothing>::run(
        info.Env(), [plane = plane()] { return nothing(plane->close()); }, undefined);
  }

  std::shared_ptr<volume::DataPlane> plane_;
  std::shared_ptr<Events> events_;
};

namespace {

Napi::Object describe_build(const Napi::CallbackInfo& info) {
  Napi::Object build = Napi::Object::New(info.Env());
  build.Set("uring", true);
  build.Set("pmem", nvram::pmem_built());
  build.Set("spdk", false);
#if defined(__SANITIZE_ADDRESS__)
  build.Set("sanitizer", "address");
#elif defined(__SANITIZE_THREAD__)
  build.Set("sanitizer", "thread");
#else
  build.Set("sanitizer", "");
#endif
  return build;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                return Napi::String::New(info.Env(), EP_VERSION);
              }));
  exports.Set("build", Napi::Function::New(env, describe_build));
  exports.Set("DataPlane", DataPlaneObject::define(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(everpoint, init)

}  // namespace ep::addon
