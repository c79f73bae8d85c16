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

// A word as a parameter: an address, or a number.
template <class T>
inline T word_as(void* word) {
    if constexpr (__is_same(T, int))
        return int(reinterpret_cast<long long>(word));
    else
        return static_cast<T>(word);
}

// Calls a kernel, whose parameters are pointers and ints, with words.
template <auto kernel>
struct Called;
template <class... Parameter, void (*kernel)(Parameter...)>
struct Called<kernel> {
    static constexpr unsigned parameters = sizeof...(Parameter);

    static void entry(void* const* arguments) { call(arguments, typename FirstNumbers<parameters>::type{}); }

private:
    // Not watched: the words lie in the host's memory.
    template <unsigned... I>
    __attribute__((no_sanitize("thread"))) static void call(void* const* arguments, Numbers<I...>) {
        kernel(word_as<Parameter>(arguments[I])...);
    }
};

}  // namespace graphllm::sim
