// SPDX-License-Identifier: Apache-2.0
//
// A sustained writer whose every block can be checked later, by anyone, without a record of what it
// did. Each thread owns a stripe of the disk and makes one request at a time; request i of a thread
// (its place, its length, its bytes) follows from seed, thread and i alone. So the state of a
// stripe after i requests is known, and since a thread sends a request only when the one before it
// was completed, every recovery point must hold exactly the first i requests of each thread, for
// some i that is at least the last one that was flushed.
//
//   disk-load run   --target PATH --bytes N --seed S [--threads T] [--seconds S | --ops N] ...
//   disk-load check --target PATH --bytes N --seed S [--threads T] [--flushed 0:120,1:64] ...
//
// The same static program runs in the test guest and, to check an image, on the host.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kMagic = 0x31304441'4f4c5045;  // "EPLOAD01"
constexpr uint64_t kWords = kBlock / sizeof(uint64_t);
constexpr int kMaxReports = 20;  // Bad blocks are all counted, the first ones are described.

struct Options {
  bool check = false;
  std::string target;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t seed = 1;
  uint32_t threads = 4;
  uint32_t max_blocks = 8;
  uint64_t seconds = 0;
  uint64_t ops = 0;           // Per thread; 0: until the time is up.
  uint32_t flush_every = 64;  // Requests between flushes; 0: none but the last.
  uint32_t verify_every = 4;  // Requests between reads that are compared; 0: none but at the end.
  uint32_t tick_ms = 500;
  bool torn_last = false;  // check: the last request of a thread may be there in part.
  bool loose = false;      // check: blocks may be older than the newest, but never than the flush.
  std::map<uint32_t, uint64_t> flushed;
};

// One request: blocks [first, first + count) of the target get version `number` (from 1).
struct Op {
  uint64_t first;
  uint32_t count;
};

std::mutex print_mutex;  // Serial lines must stay whole.

[[gnu::format(printf, 1, 2)]] void say(const char* format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof(line) - 1, format, args);
  va_end(args);
  if (length < 0) return;
  if (length > static_cast<int>(sizeof(line)) - 2) length = sizeof(line) - 2;
  line[length++] = '\n';
  std::lock_guard<std::mutex> lock(print_mutex);
  for (int done = 0; done < length;) {
    ssize_t n = write(STDOUT_FILENO, line + done, length - done);
    if (n <= 0 && errno != EINTR) return;
    if (n > 0) done += static_cast<int>(n);
  }
}

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void fill(const Options& o, uint64_t block, uint64_t version, uint64_t* words) {
  words[0] = kMagic;
  words[1] = o.seed;
  words[2] = block;
  words[3] = version;
  uint64_t state = mix(o.seed ^ mix(block ^ mix(version)));
  for (uint64_t i = 4; i < kWords; ++i) {
    state += 0x9e3779b97f4a7c15;
    words[i] = state ^ (state >> 29);
  }
}

// One thread's part of the target, and the disk as the thread's requests so far have made it.
class Stripe {
 public:
  Stripe(const Options& o, uint32_t thread) : o_(o), thread_(thread) {
    uint64_t blocks = o.bytes / kBlock;
    first_ = blocks * thread / o.threads;
    count_ = blocks * (thread + 1) / o.threads - first_;
    versions_.assign(count_, 0);
  }

  uint64_t first() const { return first_; }
  uint64_t count() const { return count_; }
  uint64_t version(uint64_t block) const { return versions_[block - first_]; }

  Op op(uint64_t number) const {
    uint64_t r = mix(o_.seed ^ mix((uint64_t{thread_} << 48) ^ number));
    uint32_t length = 1 + static_cast<uint32_t>((r >> 40) % o_.max_blocks);
    return {first_ + mix(r) % (count_ - length + 1), length};
  }

  void apply(uint64_t number) {
    Op made = op(number);
    for (uint32_t i = 0; i < made.count; ++i) versions_[made.first + i - first_] = number;
  }

 private:
  const Options& o_;
  uint32_t thread_;
  uint64_t first_;
  uint64_t count_;
  std::vector<uint64_t> versions_;
};

using Clock = std::chrono::steady_clock;

uint64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch())
      .count();
}

struct Shared {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> ops{0}, flushes{0}, verified{0}, errors{0}, longest_us{0};
  std::vector<std::atomic<uint64_t>> busy_since;  // Per thread: its open request's start, 0: none.
  explicit Shared(uint32_t threads) : busy_since(threads) {}
};

void raise_to(std::atomic<uint64_t>& maximum, uint64_t value) {
  uint64_t seen = maximum.load();
  while (seen < value && !maximum.compare_exchange_weak(seen, value)) {
  }
}

class Worker {
 public:
  Worker(const Options& o, Shared& shared, int fd, uint32_t thread)
      : o_(o), shared_(shared), fd_(fd), thread_(thread), stripe_(o, thread) {
    size_t bytes = o.max_blocks * kBlock;
    buffer_ = static_cast<char*>(aligned_alloc(kBlock, bytes));
    expected_ = static_cast<char*>(aligned_alloc(kBlock, kBlock));
  }
  ~Worker() {
    free(buffer_);
    free(expected_);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void run() {
    uint64_t number = 0;
    while (!shared_.stop && (o_.ops == 0 || number < o_.ops)) {
      if (!write_op(number + 1)) break;
      stripe_.apply(++number);
      shared_.ops++;
      if (o_.flush_every != 0 && number % o_.flush_every == 0) flush(number);
      if (o_.verify_every != 0 && number % o_.verify_every == 0) {
        Op back = stripe_.op(1 + mix(number) % number);
        verify(back.first, back.count);
      }
    }
    flush(number);
    for (uint64_t at = 0; at < stripe_.count(); at += o_.max_blocks) {
      verify(stripe_.first() + at, std::min<uint64_t>(o_.max_blocks, stripe_.count() - at));
    }
    say("written t=%u op=%lu", thread_, number);
  }

 private:
  bool failed(const char* what, uint64_t block, int error) {
    shared_.errors++;
    say("io-error t=%u op=%s block=%lu: %s", thread_, what, block, strerror(error));
    return false;
  }

  template <typename Call>
  ssize_t timed(Call call) {
    uint64_t started = now_us();
    shared_.busy_since[thread_] = started;
    ssize_t result = call();
    shared_.busy_since[thread_] = 0;
    raise_to(shared_.longest_us, now_us() - started);
    return result;
  }

  bool write_op(uint64_t number) {
    Op op = stripe_.op(number);
    for (uint32_t i = 0; i < op.count; ++i) {
      fill(o_, op.first + i, number, reinterpret_cast<uint64_t*>(buffer_ + i * kBlock));
    }
    size_t bytes = op.count * kBlock;
    errno = 0;
    ssize_t n = timed([&] { return pwrite(fd_, buffer_, bytes, o_.offset + op.first * kBlock); });
    if (n != static_cast<ssize_t>(bytes)) return failed("write", op.first, errno ? errno : EIO);
    return true;
  }

  void flush(uint64_t number) {
    if (timed([&] { return fdatasync(fd_); }) != 0) {
      failed("flush", 0, errno);
      return;
    }
    shared_.flushes++;
    say("flushed t=%u op=%lu", thread_, number);
  }

  void verify(uint64_t first, uint64_t count) {
    size_t bytes = count * kBlock;
    errno = 0;
    ssize_t n = timed([&] { return pread(fd_, buffer_, bytes, o_.offset + first * kBlock); });
    if (n != static_cast<ssize_t>(bytes)) {
      failed("read", first, errno ? errno : EIO);
      return;
    }
    for (uint64_t i = 0; i < count; ++i) {
      uint64_t version = stripe_.version(first + i);
      if (version == 0) continue;  // Never written by this run: whatever was there before.
      fill(o_, first + i, version, reinterpret_cast<uint64_t*>(expected_));
      if (memcmp(buffer_ + i * kBlock, expected_, kBlock) != 0) {
        auto* found = reinterpret_cast<uint64_t*>(buffer_ + i * kBlock);
        shared_.errors++;
        say("mismatch t=%u block=%lu expected=%lu found=%lu%s", thread_, first + i, version,
            found[3], found[0] == kMagic ? "" : " (not a block of ours)");
      }
      shared_.verified++;
    }
  }

  const Options& o_;
  Shared& shared_;
  int fd_;
  uint32_t thread_;
  Stripe stripe_;
  char* buffer_;
  char* expected_;
};

int open_target(const Options& o, int flags) {
  int fd = open(o.target.c_str(), flags | O_DIRECT | O_CLOEXEC);
  if (fd < 0 && errno == EINVAL) fd = open(o.target.c_str(), flags | O_CLOEXEC);  // tmpfs
  if (fd < 0) {
    say("cannot open %s: %s", o.target.c_str(), strerror(errno));
    exit(2);
  }
  return fd;
}

int run(const Options& o) {
  int fd = open_target(o, O_RDWR);
  Shared shared(o.threads);
  uint64_t started = now_us();
  std::atomic<uint32_t> left{o.threads};
  std::vector<std::thread> threads;
  say("load start threads=%u bytes=%lu seed=%lu", o.threads, o.bytes, o.seed);
  for (uint32_t t = 0; t < o.threads; ++t) {
    threads.emplace_back([&, t] {
      Worker(o, shared, fd, t).run();
      left--;
    });
  }
  uint64_t next_tick = started + o.tick_ms * 1000;
  uint64_t last_ops = 0;
  while (left != 0) {
    usleep(10'000);
    uint64_t now = now_us();
    if (o.seconds != 0 && now - started >= o.seconds * 1'000'000) shared.stop = true;
    if (now < next_tick) continue;
    next_tick = now + o.tick_ms * 1000;
    uint64_t ops = shared.ops;
    // A request that is still open counts: a pause shows while it lasts.
    uint64_t longest = shared.longest_us.exchange(0);
    for (auto& since : shared.busy_since) {
      if (uint64_t s = since; s != 0 && now > s) longest = std::max(longest, now - s);
    }
    say("tick ms=%lu ops=%lu +%lu errors=%lu longest-ms=%.1f", (now - started) / 1000, ops,
        ops - last_ops, shared.errors.load(), static_cast<double>(longest) / 1000);
    last_ops = ops;
  }
  for (auto& thread : threads) thread.join();
  close(fd);
  double seconds = static_cast<double>(now_us() - started) / 1e6;
  say("load end ops=%lu flushes=%lu verified=%lu errors=%lu seconds=%.2f", shared.ops.load(),
      shared.flushes.load(), shared.verified.load(), shared.errors.load(), seconds);
  return shared.errors == 0 ? 0 : 1;
}

class Checker {
 public:
  Checker(const Options& o, int fd) : o_(o), fd_(fd) {
    buffer_ = static_cast<char*>(aligned_alloc(kBlock, kBlock));
    expected_ = static_cast<char*>(aligned_alloc(kBlock, kBlock));
  }
  ~Checker() {
    free(buffer_);
    free(expected_);
  }
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;

  uint64_t bad() const { return bad_; }

  void check(uint32_t thread) {
    Stripe now(o_, thread);
    std::vector<uint64_t> found(now.count());
    uint64_t newest = 0;
    for (uint64_t i = 0; i < now.count(); ++i) {
      found[i] = version_on_disk(now.first() + i);
      if (found[i] != kUnknown) newest = std::max(newest, found[i]);
    }
    auto flushed = o_.flushed.find(thread);
    uint64_t least = flushed == o_.flushed.end() ? 0 : flushed->second;
    if (newest < least) report(thread, now.first(), "flushed request lost", least, newest);
    Stripe before = now;  // One request less; equal to `now` where nothing was written.
    Stripe flush_state = now;
    for (uint64_t n = 1; n <= newest; ++n) {
      now.apply(n);
      if (n < newest) before.apply(n);
      if (n <= least) flush_state.apply(n);
    }
    for (uint64_t i = 0; i < now.count(); ++i) {
      uint64_t block = now.first() + i;
      if (found[i] == kUnknown || found[i] == now.version(block)) continue;
      if (o_.torn_last && now.version(block) == newest && found[i] == before.version(block))
        continue;
      if (o_.loose && found[i] >= flush_state.version(block) && covers(now, found[i], block))
        continue;
      report(thread, block, "wrong version", now.version(block), found[i]);
    }
    say("prefix t=%u op=%lu flushed=%lu", thread, newest, least);
  }

 private:
  static constexpr uint64_t kUnknown = ~uint64_t{0};

  static bool covers(const Stripe& stripe, uint64_t version, uint64_t block) {
    if (version == 0) return true;
    Op op = stripe.op(version);
    return block >= op.first && block < op.first + op.count;
  }

  void report(uint32_t thread, uint64_t block, const char* why, uint64_t expected, uint64_t found) {
    if (++bad_ <= kMaxReports) {
      say("bad t=%u block=%lu %s: expected=%lu found=%lu", thread, block, why, expected, found);
    }
  }

  uint64_t version_on_disk(uint64_t block) {
    ssize_t n = pread(fd_, buffer_, kBlock, o_.offset + block * kBlock);
    if (n != static_cast<ssize_t>(kBlock)) {
      report(0, block, "cannot be read", 0, 0);
      return kUnknown;
    }
    auto* words = reinterpret_cast<uint64_t*>(buffer_);
    if (words[0] == 0) {
      bool zero = true;
      for (uint64_t i = 0; i < kWords; ++i) zero = zero && words[i] == 0;
      if (zero) return 0;
    }
    fill(o_, block, words[3], reinterpret_cast<uint64_t*>(expected_));
    if (memcmp(buffer_, expected_, kBlock) == 0 && words[3] != 0) return words[3];
    report(0, block, "content is neither zero nor a whole block of this load", 0, words[3]);
    return kUnknown;
  }

  const Options& o_;
  int fd_;
  char* buffer_;
  char* expected_;
  uint64_t bad_ = 0;
};

int check(const Options& o) {
  int fd = open_target(o, O_RDONLY);
  Checker checker(o, fd);
  for (uint32_t t = 0; t < o.threads; ++t) checker.check(t);
  close(fd);
  say("check end bad=%lu", checker.bad());
  return checker.bad() == 0 ? 0 : 1;
}

[[noreturn]] void usage(const std::string& why) {
  say("disk-load: %s", why.c_str());
  say("disk-load run|check --target PATH --bytes N [--offset N] [--seed N] [--threads N] "
      "[--max-blocks N] [--seconds N] [--ops N] [--flush-every N] [--verify-every N] "
      "[--tick-ms N] [--flushed T:OP,...] [--torn-last] [--loose]");
  exit(2);
}

uint64_t number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  uint64_t value = strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0) usage(name + ": not a number: " + text);
  return value;
}

void parse_flushed(const std::string& list, std::map<uint32_t, uint64_t>& out) {
  for (size_t at = 0; at < list.size();) {
    size_t comma = std::min(list.find(',', at), list.size());
    std::string item = list.substr(at, comma - at);
    size_t colon = item.find(':');
    if (colon == std::string::npos) usage("--flushed: no colon in " + item);
    out[number("--flushed", item.substr(0, colon))] = number("--flushed", item.substr(colon + 1));
    at = comma + 1;
  }
}

Options parse(int argc, char** argv) {
  Options o;
  if (argc < 2) usage("no verb");
  std::string verb = argv[1];
  if (verb != "run" && verb != "check") usage("unknown verb " + verb);
  o.check = verb == "check";
  for (int i = 2; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--torn-last") {
      o.torn_last = true;
      continue;
    }
    if (name == "--loose") {
      o.loose = true;
      continue;
    }
    if (i + 1 == argc) usage(name + ": no value");
    std::string value = argv[++i];
    if (name == "--target")
      o.target = value;
    else if (name == "--offset")
      o.offset = number(name, value);
    else if (name == "--bytes")
      o.bytes = number(name, value);
    else if (name == "--seed")
      o.seed = number(name, value);
    else if (name == "--threads")
      o.threads = number(name, value);
    else if (name == "--max-blocks")
      o.max_blocks = number(name, value);
    else if (name == "--seconds")
      o.seconds = number(name, value);
    else if (name == "--ops")
      o.ops = number(name, value);
    else if (name == "--flush-every")
      o.flush_every = number(name, value);
    else if (name == "--verify-every")
      o.verify_every = number(name, value);
    else if (name == "--tick-ms")
      o.tick_ms = number(name, value);
    else if (name == "--flushed")
      parse_flushed(value, o.flushed);
    else
      usage("unknown option " + name);
  }
  if (o.target.empty()) usage("--target is missing");
  if (o.threads == 0 || o.max_blocks == 0 || o.tick_ms == 0) usage("zero makes no sense there");
  if (o.offset % kBlock != 0) usage("--offset is not a multiple of 4096");
  if (o.bytes / kBlock / o.threads < o.max_blocks) usage("--bytes is too small for the threads");
  if (!o.check && o.seconds == 0 && o.ops == 0) usage("one of --seconds and --ops is needed");
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse(argc, argv);
  return options.check ? check(options) : run(options);
}
