// How kernels make themselves known to the simulator, by name.
#pragma once

namespace graphllm::sim {

using Entry = void (*)(void* const* arguments);

struct Registered {
    Registered(const char* name, Entry entry, unsigned parameters);
    const char* name;
    Entry entry;
    unsigned parameters;
    const Registered* next;
};

template <unsigned... I>
struct Numbers {};
template <unsigned n, unsigned... I>
struct FirstNumbers : FirstNumbers<n - 1, n - 1, I...> {};
template <unsigned... I>
struct FirstNumbers<0, I...> {
    using type = Numbers<I...>;
};

// Calls a kernel, whose parameters are all pointers, with addresses.
template <auto kernel>
struct Called;
template <class... Parameter, void (*kernel)(Parameter...)>
struct Called<kernel> {
    static constexpr unsigned parameters = sizeof...(Parameter);

    static void entry(void* const* arguments) { call(arguments, typename FirstNumbers<parameters>::type{}); }

private:
    // Not watched: the addresses lie in the host's memory.
    template <unsigned... I>
    __attribute__((no_sanitize("thread"))) static void call(void* const* arguments, Numbers<I...>) {
        kernel(static_cast<Parameter>(arguments[I])...);
    }
};

}  // namespace graphllm::sim
