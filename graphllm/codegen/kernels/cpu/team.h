// Threads that share the work of a step and sleep between steps. Waiting is first spinning, which is fast, then sleeping,
// which lets others run. Nobody waits for a thread, only for work: one that has no core delays a step only by the units
// that it has taken.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <csignal>

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "called.h"

namespace graphllm {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Something that threads wait for, and hear of: first they look again and again, then they sleep.
class Signal {
  public:
    // Returns when ``over()`` is true. Whoever makes it so must ``tell`` afterwards.
    template <class Over>
    void until(Over over, int spins) {
        for (int i = 0; i < spins; ++i) {
            if (over()) return;
            relax();
        }
        sleepers_.fetch_add(1, std::memory_order_seq_cst);  // before looking once more: who tells looks here after
        for (;;) {
            const uint32_t told = told_.load(std::memory_order_seq_cst);
            if (over()) break;
#if defined(__linux__)
            syscall(SYS_futex, &told_, FUTEX_WAIT_PRIVATE, told, nullptr, nullptr, 0);
#else
            (void)told;
            sched_yield();
#endif
        }
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }

    void tell() {
        if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
        told_.fetch_add(1, std::memory_order_seq_cst);
#if defined(__linux__)
        syscall(SYS_futex, &told_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
    }

    void clear_after_fork() { sleepers_.store(0); }

  private:
    alignas(64) std::atomic<uint32_t> told_{0};
    std::atomic<int> sleepers_{0};
};

// Units of work that were done since the team began. Threads wait for work and not for each other: one that is kept from
// its core holds nobody up, unless it has taken a unit; when it comes back, it finds that everything was done without it.
class Progress {
  public:
    int spins = 0;

    void add(uint64_t units) { done_.fetch_add(units, std::memory_order_seq_cst); }

    // Returns when ``due`` units are done; what was written for them, the caller sees.
    GRAPHLLM_ONCE void wait(uint64_t due) {
        signal_.until([&] { return done_.load(std::memory_order_seq_cst) >= due; }, spins);
        signal_.tell();  // whoever did the last one comes by here
    }

    void clear_after_fork() { signal_.clear_after_fork(); }

  private:
    alignas(64) std::atomic<uint64_t> done_{0};
    Signal signal_;
};

// For moments. It may be held by a thread that has no core: others offer theirs.
class Lock {
  public:
    void take() {
        while (held_.test_and_set(std::memory_order_acquire)) sched_yield();
    }
    void give() { held_.clear(std::memory_order_release); }

  private:
    std::atomic_flag held_ = ATOMIC_FLAG_INIT;
};

// A step as it is asked for: inputs of ``live`` rows, and ``asked`` numbers of rows.
struct Call {
    int function, live, asked;
    const int32_t *ids, *pos, *slot, *rows;
    uint64_t loops, due;  // loops over units, and units, of all steps before it

    static constexpr int inputs(int rows, int asked) { return 3 * rows + asked; }

    // The same step, with its inputs in ``room``.
    Call copied(int32_t* room) const {
        Call copy = *this;
        for (const int32_t** input : {&copy.ids, &copy.pos, &copy.slot}) {
            if (*input != nullptr) std::memcpy(room, *input, sizeof(int32_t) * live);
            *input = room;
            room += live;
        }
        if (asked > 0) std::memcpy(room, rows, sizeof(int32_t) * asked);
        copy.rows = room;
        return copy;
    }
};

// How often this process is the child of a fork: the threads of a team stay behind in the parent.
inline std::atomic<int> forks{0};

inline void count_forks() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, [] { pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); }); });
}

class Team {
  public:
    using Job = void (*)(void* what, Call& call, int thread);

    static constexpr long PAGE = 4096;

    // What one thread is given of ``scratch`` bytes: whole pages, and nothing that another thread writes to.
    static constexpr long pages(long scratch) { return (scratch + PAGE - 1) / PAGE * PAGE; }
    long bytes() const { return (stride_ + inputs_) * threads_ + PAGE; }

    // Threads for ``job(what, call, thread)``, with ``scratch`` bytes each and room for so many inputs of a step. False
    // where memory or threads cannot be had.
    bool start(int threads, long scratch, int inputs, Job job, void* what) {
        threads_ = threads, job_ = job, what_ = what;
        stride_ = pages(scratch), inputs_ = pages(long(sizeof(int32_t)) * inputs);
        count_forks();
        generation_ = forks.load();
        void* room = nullptr;
        if (posix_memalign(&room, PAGE, size_t(bytes())) != 0) return false;
        scratch_ = static_cast<unsigned char*>(room);
        workers_ = static_cast<Worker*>(std::calloc(threads, sizeof(Worker)));
        return workers_ != nullptr && hire();
    }

    int threads() const { return threads_; }
    Progress* progress() { return &progress_; }
    unsigned char* scratch(int thread) const { return scratch_ + size_t(stride_) * thread; }

    // A step by the caller, thread 0, and by all others that come in time; returns when all is done.
    void run(Call& call) {
        if (threads_ > 1) {
            if (generation_ != forks.load(std::memory_order_relaxed)) rehire();
            lock_.take();
            posted_ = call.copied(inputs(0));
            calls_.fetch_add(1, std::memory_order_seq_cst);
            lock_.give();
            begun_.tell();
        }
        job_(what_, call, 0);
    }

    ~Team() {
        if (workers_ != nullptr && generation_ == forks.load()) dismiss();
        std::free(workers_);
        std::free(scratch_);
    }

  private:
    struct Worker {
        pthread_t handle;
        Team* team;
        int thread;
    };

    int32_t* inputs(int thread) const {
        return reinterpret_cast<int32_t*>(scratch_ + size_t(stride_) * threads_ + size_t(inputs_) * thread);
    }

    static void* work(void* self) {
        Worker& me = *static_cast<Worker*>(self);
        Team& team = *me.team;
        for (uint32_t seen = team.hired_at_;;) {
            const auto called = [&] { return team.calls_.load(std::memory_order_seq_cst) != seen; };
            team.begun_.until(called, team.progress_.spins);
            // The newest step; its inputs may be gone before this thread is through with it, so it has its own.
            team.lock_.take();
            seen = team.calls_.load(std::memory_order_relaxed);
            const bool over = team.over_;
            Call call = over ? Call{} : team.posted_.copied(team.inputs(me.thread));
            team.lock_.give();
            if (over) return nullptr;
            team.job_(team.what_, call, me.thread);
        }
    }

    bool hire() {
        int cores = int(sysconf(_SC_NPROCESSORS_ONLN));
#if defined(__linux__)
        cpu_set_t usable;
        if (sched_getaffinity(0, sizeof usable, &usable) == 0) cores = CPU_COUNT(&usable);
#endif
        progress_.spins = threads_ <= cores ? 20000 : 0;  // who spins where all cores are taken keeps others waiting
        hired_at_ = calls_.load();
        sigset_t every, before;  // signals are for the threads of whoever called us
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        hired_ = 1;
        for (int i = 1; i < threads_; ++i) {
            workers_[i].team = this, workers_[i].thread = i;
            if (pthread_create(&workers_[i].handle, nullptr, work, &workers_[i]) != 0) break;
            ++hired_;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return hired_ == threads_;
    }

    void rehire() {
        generation_ = forks.load();
        progress_.clear_after_fork();
        begun_.clear_after_fork();
        lock_.give();  // whoever held it stayed behind
        if (!hire()) std::abort();  // a step cannot fail, and there is no thread to compute it
    }

    void dismiss() {
        lock_.take();
        over_ = true;
        calls_.fetch_add(1, std::memory_order_seq_cst);
        lock_.give();
        begun_.tell();
        for (int i = 1; i < hired_; ++i) pthread_join(workers_[i].handle, nullptr);
    }

    int threads_ = 1, hired_ = 1, generation_ = 0;
    long stride_ = 0, inputs_ = 0;
    uint32_t hired_at_ = 0;
    bool over_ = false;
    Worker* workers_ = nullptr;
    unsigned char* scratch_ = nullptr;
    Job job_ = nullptr;
    void* what_ = nullptr;
    Call posted_{};
    std::atomic<uint32_t> calls_{0};
    Signal begun_;
    Lock lock_;
    Progress progress_;
};

}  // namespace graphllm
