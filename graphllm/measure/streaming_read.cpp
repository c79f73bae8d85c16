// How fast this machine reads memory once: the ceiling of a decoder, which reads every weight for each token.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

typedef uint64_t Line __attribute__((vector_size(64)));

// Sixteen rows side by side, as a product reads them; of the orders tried it is the fastest.
enum { ROWS = 16, LINES = 32 };

// Touched, on huge pages where the system gives them; NULL without memory. `bytes` is a multiple of 2 MiB.
extern "C" Line* make_buffer(size_t bytes) {
    void* room = nullptr;
    if (posix_memalign(&room, size_t(2) << 20, bytes) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(room, bytes, MADV_HUGEPAGE);
#endif
    Line* buffer = static_cast<Line*>(room);
    for (size_t i = 0; i < bytes / sizeof *buffer; i++) buffer[i] = Line{} + i;
    return buffer;
}

extern "C" void free_buffer(Line* buffer) { std::free(buffer); }

// Bits that depend on every word, so that no read can be left out. `bytes` is a multiple of 32 KiB.
extern "C" uint64_t read_once(const Line* buffer, size_t bytes) {
    Line seen[ROWS] = {};
    for (const Line* at = buffer; at < buffer + bytes / sizeof *buffer; at += ROWS * LINES)
        for (int i = 0; i < LINES; i++)
            for (int row = 0; row < ROWS; row++) seen[row] ^= at[row * LINES + i];
    for (int row = 1; row < ROWS; row++) seen[0] ^= seen[row];
    return seen[0][0] ^ seen[0][1] ^ seen[0][2] ^ seen[0][3] ^ seen[0][4] ^ seen[0][5] ^ seen[0][6] ^ seen[0][7];
}
