// Threads that run every step together and sleep between steps. Waiting is first spinning, which is fast, then sleeping,
// which lets others run: so more threads than cores are slow at worst, and never stuck.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <csignal>

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

namespace graphllm {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// A number that others wait for to change.
class Signal {
  public:
    uint32_t now() const { return value_.load(std::memory_order_acquire); }

    void change() {
        value_.fetch_add(1, std::memory_order_seq_cst);
#if defined(__linux__)
        if (sleepers_.load(std::memory_order_seq_cst) > 0)
            syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
    }

    // Returns when it is no longer ``old``.
    void wait(uint32_t old, int spins) {
        for (int i = 0; i < spins; ++i) {
            if (now() != old) return;
            relax();
        }
        while (now() == old) {
#if defined(__linux__)
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
#else
            sched_yield();
#endif
        }
    }

    void clear_after_fork() { sleepers_.store(0); }

  private:
    alignas(64) std::atomic<uint32_t> value_{0};
    std::atomic<int> sleepers_{0};
};

class Barrier {
  public:
    int spins = 0;

    // Returns when all ``threads`` have come here; what each wrote before, all see after.
    void wait(int threads) {
        if (threads == 1) return;
        const uint32_t epoch = opened_.now();
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived_.store(0, std::memory_order_relaxed);
            opened_.change();
        } else {
            opened_.wait(epoch, spins);
        }
    }

    void clear_after_fork() {
        arrived_.store(0);
        opened_.clear_after_fork();
    }

  private:
    alignas(64) std::atomic<int> arrived_{0};
    Signal opened_;
};

// How often this process is the child of a fork: the threads of a team stay behind in the parent.
inline std::atomic<int> forks{0};

inline void count_forks() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, [] { pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); }); });
}

class Team {
  public:
    using Job = void (*)(void* what, int thread);

    static constexpr long PAGE = 4096;

    // What one thread is given of ``scratch`` bytes: whole pages, and nothing that another thread writes to.
    static constexpr long pages(long scratch) { return (scratch + PAGE - 1) / PAGE * PAGE; }
    long bytes() const { return stride_ * threads_ + PAGE; }

    // False where memory or threads cannot be had.
    bool start(int threads, long scratch) {
        threads_ = threads;
        stride_ = pages(scratch);
        count_forks();
        generation_ = forks.load();
        void* room = nullptr;
        if (posix_memalign(&room, PAGE, size_t(bytes())) != 0) return false;
        scratch_ = static_cast<unsigned char*>(room);
        workers_ = static_cast<Worker*>(std::calloc(threads, sizeof(Worker)));
        return workers_ != nullptr && hire();
    }

    int threads() const { return threads_; }
    Barrier* barrier() { return &barrier_; }
    unsigned char* scratch(int thread) const { return scratch_ + size_t(stride_) * thread; }

    // ``job(what, thread)`` on every thread, the caller being thread 0; returns when all are done.
    void run(Job job, void* what) {
        if (threads_ == 1) return job(what, 0);
        if (generation_ != forks.load(std::memory_order_relaxed)) rehire();
        job_ = job, what_ = what;
        begun_.change();
        job(what, 0);
        barrier_.wait(threads_);
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

    static void* work(void* self) {
        Worker& me = *static_cast<Worker*>(self);
        Team& team = *me.team;
        for (uint32_t seen = team.hired_at_;;) {
            team.begun_.wait(seen, team.barrier_.spins);
            ++seen;
            if (team.job_ == nullptr) return nullptr;
            team.job_(team.what_, me.thread);
            team.barrier_.wait(team.threads_);
        }
    }

    bool hire() {
        cpu_cores_ = int(sysconf(_SC_NPROCESSORS_ONLN));
#if defined(__linux__)
        cpu_set_t usable;
        if (sched_getaffinity(0, sizeof usable, &usable) == 0) cpu_cores_ = CPU_COUNT(&usable);
#endif
        barrier_.spins = threads_ <= cpu_cores_ ? 20000 : 0;  // who spins where all cores are taken keeps others waiting
        hired_at_ = begun_.now();
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
        barrier_.clear_after_fork();
        begun_.clear_after_fork();
        if (!hire()) std::abort();  // a step cannot fail, and there is no thread to compute it
    }

    void dismiss() {
        job_ = nullptr;
        begun_.change();
        for (int i = 1; i < hired_; ++i) pthread_join(workers_[i].handle, nullptr);
    }

    int threads_ = 1, hired_ = 1, cpu_cores_ = 1, generation_ = 0;
    long stride_ = 0;
    uint32_t hired_at_ = 0;
    Worker* workers_ = nullptr;
    unsigned char* scratch_ = nullptr;
    Job job_ = nullptr;
    void* what_ = nullptr;
    Signal begun_;
    Barrier barrier_;
};

}  // namespace graphllm
