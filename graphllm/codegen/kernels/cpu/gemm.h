// Products of many rows. Activations are arranged once for all threads, in stacks of STACK rows; weights are packed a panel
// at a time and read once a call. How both sides become cells is said by a ``way``:
//
//   cells(), depth()                   of a row; that are packed at a time
//   CELL, at(n, c), scale_at(n, c)     bytes of a cell of weights as they are stored; where cell c of row n is, and its scale
//   stack_bytes()                      what STACK arranged rows take
//   arrange(x, lane, stack, room)      row ``lane`` of a stack
//   pack(n0, count, c0, n, to, room)   cells c0 … c0+n of ``count`` weight rows as a panel
//   tile<R>(stack, r0, c0, n, panel, sums, …)   R rows of a stack times a panel
#pragma once

#include "gemm_tile.h"

namespace graphllm {

constexpr int DEPTH = 256;   // cells in a panel: with 32 columns it fills 32 kB: in a second-level cache at worst
constexpr int WIDEST = 256;  // columns in hand: activations, a panel deep, stay in a second-level cache for all of them

// A packed panel: cells [n][PANEL], and for integers a scale for each column of each group.
struct Panel {
    Cell* cells;
    float* scales;
};

constexpr int stacks(int rows) { return (rows + STACK - 1) / STACK; }
constexpr int panels(int columns) { return (columns + PANEL - 1) / PANEL; }

// A row's cells to its lane of a stack.
inline void to_lane(const void* row, int cells, Cell* to) {
    for (int c = 0; c < cells; ++c) to[long(c) * STACK] = read<Cell>(static_cast<const char*>(row) + 4L * c);
}

// f32 times f32: whatever the weights are, they are widened while they are packed.
template <class W>
struct Floats {
    W w;
    static constexpr int ROWS = TALL, CELL = W::ELEMENT;

    int cells() const { return w.k; }
    const void* at(long n, int c) const { return w.at(n, c); }
    const void* scale_at(long n, int c) const { return w.scale_at(n, c); }
    int depth() const { return DEPTH; }
    long stack_bytes() const { return 4L * STACK * w.k; }

    void arrange(const float* x, int lane, unsigned char* stack, unsigned char* room) const {
        x = w.settled(x, room);
        Cell* to = reinterpret_cast<Cell*>(stack) + lane;
        for (int i = 0; i < w.k; ++i) to[long(i) * STACK] = bits_as<Cell>(x[i]);
    }

    void pack(long n0, int count, int c0, int n, Panel to, float* room) const {
        if constexpr (W::SPLIT > 1)
            if (w.splits()) return split(n0, count, c0, n, to, reinterpret_cast<Cell*>(room));
        for (int j = 0; j < count; j += 16) {
            const int some = count - j < 16 ? count - j : 16;
            if (CELL == 4) {  // f32 already
                turn(at(n0 + j, c0), 4L * w.k, some, 4 * n, 0, to.cells + j);
                continue;
            }
            for (int i = 0; i < some; ++i) w.widened(n0 + j + i, c0, n, room + i * DEPTH);
            turn(room, 4L * DEPTH, some, 4 * n, 0, to.cells + j);
        }
        blank(count, n, to.cells);
    }

    // Turned as they are stored, SPLIT to a word, then widened: so fewer words are turned. ``words`` [DEPTH / SPLIT][PANEL]
    void split(long n0, int count, int c0, int n, Panel to, Cell* words) const {
        for (int j = 0; j < count; j += 16)
            turn(at(n0 + j, c0), long(CELL) * w.k, count - j < 16 ? count - j : 16, CELL * n, 0, words + j);
        for (int i = 0; i < n;) {
            const int left = w.scaled(c0 + i), end = left < n - i ? i + left : n;
            float scales[PANEL] = {};
            for (int j = 0; j < count; ++j) scales[j] = w.scale_of(n0 + j, c0 + i);
            for (; i < end; i += W::SPLIT)
                for (int v = 0; v < COLUMNS; ++v) {
                    const NI word = read<NI>(words + long(i / W::SPLIT) * PANEL + v * LANE);
                    for (int e = 0; e < W::SPLIT; ++e) {
                        const NF x = w.widened(word, e, read<NF>(scales + v * LANE));
                        std::memcpy(to.cells + long(i + e) * PANEL + v * LANE, &x, sizeof x);
                    }
                }
        }
        blank(count, n, to.cells);
    }

    template <int R>
    void tile(const unsigned char* stack, int r0, int c0, int n, Panel panel, NF (&sums)[R][COLUMNS]) const {
        multiply<DotF32>(reinterpret_cast<const Cell*>(stack) + long(c0) * STACK + r0, panel.cells, n, sums);
    }
};

#if defined(GRAPHLLM_DOT_BF16)
// bf16 times bf16, two at a time.
struct Halves {
    Both16 w;
    static constexpr int ROWS = TALL, CELL = 4;

    int cells() const { return (w.k + 1) / 2; }
    const void* at(long n, int c) const { return w.at(n, 2 * c); }
    const void* scale_at(long n, int c) const { return w.scale_at(n, 2 * c); }
    int depth() const { return DEPTH; }
    long stack_bytes() const { return 4L * STACK * cells(); }

    void arrange(const float* x, int lane, unsigned char* stack, unsigned char* room) const {
        bf16* row = reinterpret_cast<bf16*>(room);
        for (int i = 0; i < w.k; ++i) from_float(x[i], row[i]);
        row[w.k] = bf16{0};  // the other half of the last cell
        to_lane(room, cells(), reinterpret_cast<Cell*>(stack) + lane);
    }

    void pack(long n0, int count, int c0, int n, Panel to, float*) const {
        const int bytes = 2 * (w.k - 2 * c0 < 2 * n ? w.k - 2 * c0 : 2 * n);
        for (int j = 0; j < count; j += 16)
            turn(w.w + (n0 + j) * w.k + 2 * c0, 2L * w.k, count - j < 16 ? count - j : 16, bytes, 0, to.cells + j);
        blank(count, n, to.cells);
    }

    template <int R>
    void tile(const unsigned char* stack, int r0, int c0, int n, Panel panel, NF (&sums)[R][COLUMNS]) const {
        multiply<DotBf16>(reinterpret_cast<const Cell*>(stack) + long(c0) * STACK + r0, panel.cells, n, sums);
    }
};
#endif

#if defined(GRAPHLLM_DOT_INT8)
// int8 times int8, as many at a time as make a cell. Sums of a group, or of a panel's depth of a longer one, are scaled and
// added up as floats.
template <class S, int GROUP>
struct Integers {
    Dynamic<S, GROUP> w;
    typedef DotInt8::Element Element;
    static constexpr int PER = sizeof(Cell) / sizeof(Element);  // elements of a cell
    static constexpr int ROWS = PER == 2 ? TALL : SHORT;        // where products wait for loads, sums may lie in memory
    static constexpr int CELL = PER;

    // Whether groups are whole cells and fit a panel's depth.
    bool able() const {
        const bool one = GROUP >= w.k, fits = GROUP <= PER * DEPTH || GROUP % (PER * DEPTH) == 0;
        return GROUP % PER == 0 ? one || fits : one;
    }
    static constexpr int part() {  // cells of a sum
        return GROUP > PER * DEPTH ? DEPTH : (GROUP + PER - 1) / PER;
    }
    int parts() const { return (cells() + part() - 1) / part(); }
    int group(int part_number) const { return int(long(PER) * part_number * part() / GROUP); }

    int cells() const { return (w.k + PER - 1) / PER; }
    const void* at(long n, int c) const { return w.at(n, PER * c); }
    const void* scale_at(long n, int c) const { return w.scale_at(n, PER * c); }
    int depth() const { return DEPTH / part() * part(); }
    long stack_bytes() const { return 4L * STACK * (cells() + 2L * parts()); }

    // A stack: cells, then a scale for each part, then what its sums start with.
    void arrange(const float* x, int lane, unsigned char* stack, unsigned char* room) const {
        w.stage(x, room);
        int8_t* q = w.digits(room);
        std::memset(q + w.k, 0, up(w.k, 64) - w.k);
        Cell* to = reinterpret_cast<Cell*>(stack) + lane;
        if constexpr (sizeof(Element) == 1)
            to_lane(q, cells(), to);
        else
            for (int c = 0; c < cells(); ++c) {  // in the order in which ``split`` leaves weights
                Element cell[PER];
                for (int e = 0; e < PER; ++e) cell[e] = q[w.splits() ? c / 2 * 4 + c % 2 + 2 * e : PER * c + e];
                to[long(c) * STACK] = read<Cell>(cell);
            }
        Cell *scales = to + long(cells()) * STACK, *starts = scales + long(parts()) * STACK;
        for (int p = 0; p < parts(); ++p) {
            const int from = PER * p * part(), left = w.k - from;
            const int32_t total = total_of(q + from, left < PER * part() ? left : PER * part());
            scales[long(p) * STACK] = bits_as<Cell>(w.scales(room)[group(p)]);
            starts[long(p) * STACK] = bits_as<Cell>(DotInt8::FLIP ? -128 * total : 0);
        }
    }

    void pack(long n0, int count, int c0, int n, Panel to, float* room) const {
        const int elements = w.k - PER * c0 < PER * n ? w.k - PER * c0 : PER * n;
        const int groups = w.groups(w.k);
        for (int j = 0; j < count; j += 16) {
            const int some = count - j < 16 ? count - j : 16;
            const int8_t* from = w.q + (n0 + j) * w.k + PER * c0;
            if constexpr (sizeof(Element) == 1) {
                turn(from, w.k, some, elements, DotInt8::FLIP, to.cells + j);
            } else if (w.splits()) {
                turn(from, w.k, some, elements, 0, reinterpret_cast<Cell*>(room) + j);
            } else {
                Element* wide = reinterpret_cast<Element*>(room);
                for (int i = 0; i < some; ++i)
                    for (int e = 0; e < elements; ++e) wide[long(i) * PER * DEPTH + e] = from[long(i) * w.k + e];
                turn(wide, 4L * DEPTH, some, int(sizeof(Element)) * elements, 0, to.cells + j);
            }
        }
        if (sizeof(Element) == 2 && w.splits()) split(reinterpret_cast<const Cell*>(room), n, to);
        blank(count, n, to.cells);
        for (int p = 0; p * part() < n; ++p)
            for (int j = 0; j < PANEL; ++j)
                to.scales[p * PANEL + j] = j < count ? to_float(w.scale[(n0 + j) * groups + group(c0 / part() + p)]) : 0;
    }

    // Four weights, turned as they are stored, in two cells: the even ones, then the odd ones. ``words`` [n / 2][PANEL]
    static void split(const Cell* words, int n, Panel to) {
        typedef int16_t Halves __attribute__((vector_size(WIDE)));
        for (int c = 0; c < n; c += 2)
            for (int v = 0; v < PANEL; v += LANE) {
                const Halves word = read<Halves>(words + c / 2 * PANEL + v), even = word << 8 >> 8, odd = word >> 8;
                std::memcpy(to.cells + c * PANEL + v, &even, sizeof even);
                std::memcpy(to.cells + (c + 1) * PANEL + v, &odd, sizeof odd);
            }
    }

    template <int R>
    void tile(const unsigned char* stack, int r0, int c0, int n, Panel panel, NF (&sums)[R][COLUMNS]) const {
        const Cell* x = reinterpret_cast<const Cell*>(stack) + r0;
        const Cell *scales = x + (cells() + long(c0 / part())) * STACK, *starts = scales + long(parts()) * STACK;
        for (int c = 0, p = 0; c < n; c += part(), ++p) {
            NI whole[R][COLUMNS];
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < COLUMNS; ++v) whole[r][v] = NI{} + read<int32_t>(starts + p * STACK + r);
            const int m = n - c < part() ? n - c : part();
            multiply<DotInt8>(x + long(c0 + c) * STACK, panel.cells + long(c) * PANEL, m, whole);
            for (int v = 0; v < COLUMNS; ++v) {
                const NF column = read<NF>(panel.scales + p * PANEL + v * LANE);
                for (int r = 0; r < R; ++r)
                    sums[r][v] += __builtin_convertvector(whole[r][v], NF) * column * read<float>(scales + p * STACK + r);
            }
        }
    }
};
#endif

// Bytes of a thread's own: a panel, with scales, and rows to be turned.
constexpr long PANEL_BYTES = 4L * DEPTH * (2 * PANEL + 16);

// Asks for the weights of a panel, the i-th of ``parts`` parts of its rows: these lie far apart, where no prefetcher looks.
// Inline by order: gcc drops calls of a function that only asks, as without effect.
template <class Way>
GRAPHLLM_INLINE void ask_for(const Way& way, long n0, int c0, int n, int i, int parts) {
    for (long row = n0 + PANEL * i / parts; row < n0 + PANEL * (i + 1) / parts; ++row) {
        const char* from = static_cast<const char*>(way.at(row, c0));
        for (int byte = 0; byte < n * Way::CELL; byte += 64) __builtin_prefetch(from + byte, 0, 2);
        __builtin_prefetch(way.scale_at(row, c0), 0, 2);
    }
}

// out[t*ld + i] = row t . weight row n0 + i for i < count; ``x`` are stacks as arranged. What comes next, as a rule, are
// the weights behind those.
template <class Way>
GRAPHLLM_ONCE void many(const Way& way, const unsigned char* x, long n0, int count, int rows, float* out, long ld,
                        unsigned char* room) {
    Cell* cells = reinterpret_cast<Cell*>(room);
    float* scales = reinterpret_cast<float*>(cells + long(DEPTH) * PANEL);
    float* turned = scales + long(DEPTH) * PANEL;
    const Panel panel{cells, scales};
    const int depth = way.depth(), last = panels(count) - 1;
    for (int c0 = 0; c0 < way.cells(); c0 += depth) {
        const int n = way.cells() - c0 < depth ? way.cells() - c0 : depth;
        for (int p = 0; p <= last; ++p) {
            const int columns = p < last ? PANEL : count - p * PANEL;
            way.pack(n0 + p * PANEL, columns, c0, n, panel, turned);
            const bool deeper = p == last && c0 + depth < way.cells();
            const long next_n = deeper ? n0 : n0 + (p + 1) * PANEL;
            const int next_c = p < last ? c0 : deeper ? c0 + depth : 0;
            const int next_cells = way.cells() - next_c < depth ? way.cells() - next_c : depth;
            for (int b = 0; b < stacks(rows); ++b) {
                ask_for(way, next_n, next_c, next_cells, b, stacks(rows));
                for (int r = 0; r < STACK && b * STACK + r < rows; r += Way::ROWS) {
                    const int t = b * STACK + r;
                    NF sums[Way::ROWS][COLUMNS] = {};
                    way.template tile<Way::ROWS>(x + b * way.stack_bytes(), r, c0, n, panel, sums);
                    leave(sums, out + t * ld + p * PANEL, ld, rows - t, columns, c0 == 0);
                }
            }
        }
    }
}

}  // namespace graphllm
