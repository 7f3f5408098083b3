// What a model or the relation kernel holds of its machine: memory and threads.
//
// Included by api.cpp alone.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Aligned memory that starts as zeros; large pieces ask for huge pages.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) {
    constexpr size_t kHuge = size_t{1} << 21;
    const size_t alignment = bytes >= kHuge ? kHuge : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    pointer_.reset(static_cast<char*>(aligned_alloc(alignment, rounded ? rounded : alignment)));
    if (!pointer_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment == kHuge) madvise(pointer_.get(), rounded, MADV_HUGEPAGE);
#endif
    memset(pointer_.get(), 0, bytes);
    size_ = bytes;
  }
  void* get() const { return pointer_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(char* pointer) const { free(pointer); }
  };
  std::unique_ptr<char, Free> pointer_;
  size_t size_ = 0;
};

// At least `count` pieces of at least so many bytes.
void reserve(std::vector<Memory>& memory, size_t count, size_t bytes) {
  if (memory.size() < count) memory.resize(count);
  for (size_t i = 0; i < count; i++) {
    if (memory[i].size() < bytes) memory[i] = Memory(bytes);
  }
}

// Numbers too small for the usual form count as zero: they would make each operation a hundred times slower.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | uint64_t{1} << 24));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

// Threads that run the same function, each with its number; the caller is number 0. They sleep between runs.
class Pool {
 public:
  explicit Pool(int size) : size_(size) {}
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    start_.notify_all();
    for (std::thread& one : threads_) one.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Calls body(0) to body(count - 1), each in its own thread; `count` is at most the size of the pool.
  void run(int count, const std::function<void(int)>& body) {
    if (count > 1) {
      start_threads();
      const std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      count_ = count;
      running_ = count - 1;
      round_++;
      start_.notify_all();
    }
    {
      const FlushDenormals flush;
      body(0);
    }
    if (count > 1) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [this] { return running_ == 0; });
    }
  }

 private:
  void start_threads() {
    while (static_cast<int>(threads_.size()) < size_ - 1) {
      const int number = static_cast<int>(threads_.size()) + 1;
      try {
        threads_.emplace_back([this, number] { work(number); });
      } catch (const std::system_error& error) {
        throw std::runtime_error("the system starts " + std::to_string(number) + " of " + std::to_string(size_) +
                                 " threads, then no more (" + error.code().message() +
                                 "): use fewer threads, or raise the limit of threads or of memory (ulimit)");
      }
    }
  }

  void work(int number) {
    const FlushDenormals flush;
    long seen = 0;
    for (;;) {
      const std::function<void(int)>* body = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
        if (number >= count_) continue;
        body = body_;
      }
      (*body)(number);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  const int size_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int)>* body_ = nullptr;
  int count_ = 0, running_ = 0;
  long round_ = 0;
  bool stop_ = false;
};

void require_threads(int threads) {
  if (threads >= 1 && threads <= 1024) return;
  throw std::invalid_argument("threads is " + std::to_string(threads) + "; expected 1 to 1024");
}

// Whose run it is, in one process. A forked child has its own: the thread that holds its parent's may not exist there.
struct Turn {
  const bool broken;  // the fork came while a thread of the parent ran: what it left is half done
  const pid_t process = getpid();
  std::mutex mutex;
  std::atomic<bool> running{false};

  explicit Turn(const Turn* parent) : broken(parent && (parent->broken || parent->running)) {}
};

// A turn that is taken; the next thread has it when this one is gone.
class Reserved {
 public:
  explicit Reserved(Turn& turn) : turn_(turn), lock_(turn.mutex) { turn_.running = true; }
  ~Reserved() { turn_.running = false; }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

 private:
  Turn& turn_;
  const std::lock_guard<std::mutex> lock_;
};

// The threads of one owner, for one run at a time, in the process that made them.
class Workers {
 public:
  Workers() : turn_(new Turn(nullptr)) {}
  ~Workers() {
    if (process_ != getpid()) (void)pool_.release();  // its threads do not exist in this process
    const Turn* turn = turn_.load();
    if (turn->process == getpid()) delete turn;
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  void make(int threads) {
    require_threads(threads);
    pool_ = std::make_unique<Pool>(threads);
  }
  int size() const { return pool_->size(); }

  // To be kept while the threads run; another thread that wants them waits.
  Reserved reserved(const char* owner) {
    if (process_ != getpid() && size() > 1) {
      throw std::invalid_argument(std::string("the threads of a ") + owner + " do not survive a fork");
    }
    Turn& turn = turn_here();
    if (turn.broken) {
      throw std::invalid_argument(std::string("the ") + owner + " was running when this process was forked: " +
                                  "make another one in the child, or start the child with 'spawn'");
    }
    return Reserved(turn);
  }
  void run(int count, const std::function<void(int)>& body) { pool_->run(count, body); }

 private:
  // The turn of a parent is left as it is: its mutex may be held for ever.
  Turn& turn_here() {
    Turn* turn = turn_.load();
    if (turn->process == getpid()) return *turn;
    auto own = std::make_unique<Turn>(turn);
    // Where another thread of this process was first, `turn` becomes that one's.
    return turn_.compare_exchange_strong(turn, own.get()) ? *own.release() : *turn;
  }

  std::unique_ptr<Pool> pool_;
  std::atomic<Turn*> turn_;
  const pid_t process_ = getpid();
};

}  // namespace
