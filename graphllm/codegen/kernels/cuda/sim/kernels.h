// How kernels make themselves known to the simulator, by name.
#pragma once

#include <utility>

namespace graphllm::sim {

using Entry = void (*)(void* const* arguments);

struct Registered {
    Registered(const char* name, Entry entry, unsigned parameters);
    const char* name;
    Entry entry;
    unsigned parameters;
    const Registered* next;
};

// Calls a kernel, whose parameters are all pointers, with addresses.
template <auto kernel>
struct Called;
template <class... Parameter, void (*kernel)(Parameter...)>
struct Called<kernel> {
    static constexpr unsigned parameters = sizeof...(Parameter);

    static void entry(void* const* arguments) { call(arguments, std::index_sequence_for<Parameter...>{}); }

private:
    // Not watched: the addresses lie in the host's memory.
    template <std::size_t... I>
    __attribute__((no_sanitize("thread"))) static void call(void* const* arguments, std::index_sequence<I...>) {
        kernel(static_cast<Parameter>(arguments[I])...);
    }
};

}  // namespace graphllm::sim
