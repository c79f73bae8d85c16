// The functions of calls.h: what a kernel's intrinsics do.
#pragma once

#include "hooks.h"
#include "numbers.h"

namespace graphllm::sim {

Thread* current = nullptr;
Machine* machine = nullptr;

#ifdef GRAPHLLM_SIM_WATCH
constexpr bool WATCH = true;
inline void watch(const void* at, unsigned n, bool write, uint8_t flags, Place place) { access(at, n, write, flags, place); }
#else
constexpr bool WATCH = false;
inline void watch(const void*, unsigned, bool, uint8_t, Place) {}
inline void release_and_see(const void*) {}
inline void fence_passed() {}
#endif

Index thread_index() { return {current->index, 0}; }
Index block_index() { return current->block->index; }
Index block_size() { return current->block->size; }
Index grid_size() { return current->block->grid_size; }
unsigned char* shared_memory() { return current->block->shared; }

void meet_block(Site site) { meet_block_at(site); }
void meet_warp(Site site) {
    meet_warp_as("sync_warp", site, [](Warp& w) { ++w.epoch; });
}

unsigned long long value_of_lane(unsigned long long value, unsigned lane, Site site) {
    Thread& t = *current;
    Warp& w = warp_of(t);
    w.values[w.turn][t.index % LANES] = value;
    const unsigned turn = meet_warp_as("shuffle", site, [](Warp&) {});
    if (!(w.took_part[turn] >> lane & 1))
        fail("shuffle at " + words(site) + format(": asks lane %u, which has ended", lane));
    return w.values[turn][lane];
}

template <class F>
inline void multiply(Operand operand, Site site, F value) {
    Thread& t = *current;
    warp_of(t).operands[t.index % LANES] = operand;
    meet_warp_as("mma", site, [&](Warp& w) {
        if (w.alive != ~0u) fail("mma at " + words(site) + ": lanes of its warp have ended");
        multiply_tiles(w.operands, value);
    });
}
void multiply_bf16(float* d, const unsigned* a, const unsigned* b, Site site) { multiply({d, a, b}, site, bf16_value); }
void multiply_f16(float* d, const unsigned* a, const unsigned* b, Site site) { multiply({d, a, b}, site, f16_value); }

void wait_for_producers(Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    b.grid->waited = true;
    if (!b.grid->cleared) {
        stop(t, Stop::producers, site);
        warp_of(t).at_wait |= lane_bit(t);
        give_way(t);
        t.stop = Stop::nothing;
    }
    t.waited = true;
    if (b.waited_since == ANY) b.waited_since = b.epoch;
}
void let_consumers_start() {}  // they may at any time: that is when most goes wrong

inline void check_address(const void* at, unsigned multiple, const char* what, Site site) {
    if (reinterpret_cast<uintptr_t>(at) % multiple)
        fail(what + (" at " + words(site)) + format(": misaligned; expected a multiple of %u", multiple));
}

// A copy is made at some time between here and the wait for it, mostly at the end.
void begin_copy(void* shared, const void* global, bool there, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    const auto to = static_cast<unsigned char*>(shared);
    check_address(to, 16, "copy_async to shared memory", site);
    if (there) check_address(global, 16, "copy_async from memory", site);
    if (size_t(to - b.shared) > b.grid->launch->shared || size_t(to - b.shared) + 16 > b.grid->launch->shared)
        fail("copy_async at " + words(site) + format(": to shared memory %+lld of %u bytes: out of bounds",
                                                     static_cast<long long>(to - b.shared), b.grid->launch->shared));
    const Place place{site, __builtin_return_address(0)};
    if (there) watch(global, 16, false, 0, place);
    watch(to, 16, true, ON_ITS_WAY, place);
    Copy copy{to, there ? static_cast<const unsigned char*>(global) : nullptr, site, b.machine->order.once_in(4)};
    if (copy.done) copy.from ? (void)std::memcpy(to, copy.from, 16) : (void)std::memset(to, 0, 16);
    t.copies.push_back(copy);
}
void close_copies() { current->groups.push_back(current->copies.size()); }
void wait_for_copies(unsigned left) {
    Thread& t = *current;
    if (t.groups.size() <= left) return;
    const size_t closed = t.groups.size() - left, count = t.groups[closed - 1];
    for (size_t i = 0; i < count; ++i) {
        const Copy& c = t.copies[i];
        if (!c.done) c.from ? (void)std::memcpy(c.to, c.from, 16) : (void)std::memset(c.to, 0, 16);
#ifdef GRAPHLLM_SIM_WATCH
        copy_arrived(t.block->cells, size_t(c.to - t.block->shared));
#endif
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + std::ptrdiff_t(count));
    t.groups.erase(t.groups.begin(), t.groups.begin() + std::ptrdiff_t(closed));
    for (size_t& end : t.groups) end -= count;
}

void reads(const void* at, unsigned bytes, Site site) {
    check_address(at, bytes, "a load", site);
    watch(at, bytes, false, 0, {site, __builtin_return_address(0)});
}

// Others may come first.
inline void begin_atomic(const void* at, unsigned bytes, Place place) {
    const Site site = place.site;
    Thread& t = *current;
    check_address(at, bytes, "an atomic operation", site);
    watch(at, bytes, true, ATOMIC, place);
    if (++machine->idle > SPINS) fail("atomic operation at " + words(site) + ": spins, and nothing changes");
    t.site = site;
    give_way(t);
    release_and_see(at);
}
unsigned add(unsigned* at, unsigned n, Site site) {
    begin_atomic(at, 4, {site, __builtin_return_address(0)});
    const unsigned before = *at;
    *at = before + n;
    return before;
}
unsigned long long add(unsigned long long* at, unsigned long long n, Site site) {
    begin_atomic(at, 8, {site, __builtin_return_address(0)});
    const unsigned long long before = *at;
    *at = before + n;
    return before;
}
unsigned long long maximum(unsigned long long* at, unsigned long long n, Site site) {
    begin_atomic(at, 8, {site, __builtin_return_address(0)});
    const unsigned long long before = *at;
    if (n > before) *at = n;
    return before;
}
void fence() { fence_passed(); }

float f16_to_float(unsigned short bits) { return f16_value(bits); }
unsigned short float_to_f16(float x) { return f16_bits(x); }

}  // namespace graphllm::sim
