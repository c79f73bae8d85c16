// What a driver calls for each unit of its work. A driver that took it as a template would be compiled again for every
// kernel of a plan; a call costs nothing beside a unit.
#pragma once

// One copy of a function for all who call it. gcc would make some for the constants of single callers.
#if defined(__GNUC__) && !defined(__clang__)
#define GRAPHLLM_ONCE __attribute__((noinline, noclone))
#else
#define GRAPHLLM_ONCE __attribute__((noinline))
#endif

namespace graphllm {

// Any function of that type; it must live on.
template <class F>
class Called;

template <class Result, class... Args>
class Called<Result(Args...)> {
  public:
    template <class F>
    Called(const F& f) : what_(&f), call_(call<F>) {}

    Result operator()(Args... args) const { return call_(what_, args...); }

  private:
    template <class F>
    static Result call(const void* what, Args... args) {
        return (*static_cast<const F*>(what))(args...);
    }

    const void* what_;
    Result (*call_)(const void*, Args...);
};

}  // namespace graphllm
