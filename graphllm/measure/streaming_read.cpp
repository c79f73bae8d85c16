// How fast this machine reads memory once: the ceiling of a decoder, which reads every weight for each token.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

// A register of the machine: sums in wider vectors would be copied through memory.
#if defined(__AVX512F__)
typedef uint64_t Part __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef uint64_t Part __attribute__((vector_size(32)));
#else
typedef uint64_t Part __attribute__((vector_size(16)));
#endif
enum { PARTS = 64 / sizeof(Part) };
struct Line {
    Part part[PARTS];
};

// Which order is fastest is for the machine to say: one line after the other, or rows side by side, as many as registers
// hold.
enum { ROWS = PARTS == 1 ? 16 : 8 / PARTS, LINES = 512 / ROWS };

// Touched, on huge pages where the system gives them; NULL without memory. `bytes` is a multiple of 2 MiB.
extern "C" Line* make_buffer(size_t bytes) {
    void* room = nullptr;
    if (posix_memalign(&room, size_t(2) << 20, bytes) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(room, bytes, MADV_HUGEPAGE);
#endif
    Line* buffer = static_cast<Line*>(room);
    for (size_t i = 0; i < bytes / sizeof *buffer; i++) buffer[i].part[0] = Part{} + i;
    return buffer;
}

extern "C" void free_buffer(Line* buffer) { std::free(buffer); }

// Bits that depend on every word, so that no read can be left out. `bytes` is a multiple of 32 KiB.
template <int APART, int STEP>
static uint64_t read(const Line* buffer, size_t bytes) {
    Part seen[ROWS][PARTS] = {}, all = {};
    for (const Line* at = buffer; at < buffer + bytes / sizeof *buffer; at += ROWS * LINES)
        for (int i = 0; i < LINES; i++)
            for (int row = 0; row < ROWS; row++)
                for (int p = 0; p < PARTS; p++) seen[row][p] ^= at[row * APART + i * STEP].part[p];
    for (int row = 0; row < ROWS; row++)
        for (int p = 0; p < PARTS; p++) all ^= seen[row][p];
    uint64_t bits = 0;
    for (unsigned i = 0; i < sizeof all / sizeof bits; i++) bits ^= all[i];
    return bits;
}

extern "C" uint64_t read_in_order(const Line* buffer, size_t bytes) { return read<1, ROWS>(buffer, bytes); }
extern "C" uint64_t read_in_rows(const Line* buffer, size_t bytes) { return read<LINES, 1>(buffer, bytes); }
