// The driver of a matrix product with what comes before and after it. Rows of weights are cut into units; a thread
// computes those it takes for all rows and hands every finished tile to ``finish`` while it is still in cache.
//
//   source(t, room) -> const float*   activation row t, where it lies or computed into ``room`` [K]
//   finish(tile, u, count, t0, t1)    rows t0 … t1 of unit u, of ``count`` columns
#pragma once

#include <initializer_list>

#include "called.h"
#include "gemm.h"
#include "step.h"

namespace graphllm {

// ``count`` matrices, of one shape, one below the other: gate and up.
struct Pieces {
    int count, rows;
};

// Finished columns of a unit: those of piece p of row t lie at row(t) + p * piece.
struct Tile {
    float* at;
    long ld, piece;
    float* row(int t) const { return at + t * ld; }
};

typedef Called<const float*(int t, float* room)> Source;
typedef Called<void(const Tile& tile, int u, int count, int t0, int t1)> Finish;

// How units lie in the columns of a matrix: ``units`` of ``unit`` columns, the last one of ``last``.
struct Cut {
    Pieces pieces;
    int unit, units, last;

    int columns(int first, int end) const { return (end - first - 1) * unit + (end == units ? last : unit); }
};

constexpr int FEW = 8;  // rows that a pass over the weights serves without packing them

// Private bytes of a thread, the generator asks for the most that any kernel needs; ``row``: row_bytes of the weights.
constexpr long most_of(std::initializer_list<long> needs) {
    long most = 0;
    for (const long need : needs) most = need > most ? need : most;
    return most;
}
constexpr long few_bytes(long row, int k, int pieces, int unit) {
    return FEW * (row + 4L * up((pieces > STREAMS ? pieces : STREAMS) * unit, LANES)) + 4L * up(k, LANES);
}
constexpr int bunch(int pieces, int unit) { return WIDEST / (pieces * unit) > 1 ? WIDEST / (pieces * unit) : 1; }
constexpr long many_bytes(long row, int k, int most, int pieces, int unit) {
    const int columns = bunch(pieces, unit) * unit;
    return row + 4L * 2 * up(k, LANES) + PANEL_BYTES + 4L * pieces * most * columns;
}

// ``count`` columns of one place: cut into as many stretches as there may be streams.
template <int T, class W>
inline void one_stream(const W& weights, long n0, int count, const unsigned char* x, float* out, int ld) {
    constexpr int R = side_by_side(T);
    const int apart = count / R;
    weights.template few<T, R>(Streams<R>::apart(n0, out, apart), apart, x, ld);
    if (R * apart < count)
        weights.template few<T, 1>(Streams<1>::apart(n0 + R * apart, out + R * apart, 0), count - R * apart, x, ld);
}

template <class W>
GRAPHLLM_ONCE void linear_few(const Step& step, const W& weights, int rows, Cut cut, Source source, Finish finish) {
    const long row = weights.row();
    unsigned char* x = step.scratch;
    float *room = reinterpret_cast<float*>(x + FEW * row), *at = room + up(weights.k, LANES);
    bool staged = false;
    const auto stage = [&] {  // every thread for itself: that is less work than waiting for another's
        for (int t = 0; t < rows && !staged; ++t) weights.stage(source(t, room), x + t * row);
        staged = true;
    };
    const Tile tile{at, cut.unit, long(rows) * cut.unit};
    const long n = cut.pieces.rows, of_unit = tile.piece * cut.pieces.count;
    const auto unit = [&](int u) {
        const int count = cut.columns(u, u + 1);
        for (int p = 0; p < cut.pieces.count; ++p) {
            const long n0 = p * n + long(u) * cut.unit;
            float* out = at + p * tile.piece;
            switch (rows) {
                case 1: one_stream<1>(weights, n0, count, x, out, cut.unit); break;
                case 2: one_stream<2>(weights, n0, count, x, out, cut.unit); break;
                case 3: one_stream<3>(weights, n0, count, x, out, cut.unit); break;
                default:
                    for (int t = 0; t < rows; t += 4) {
                        const int from = rows - t >= 4 ? t : rows - 4;  // rows computed twice are the same
                        one_stream<4>(weights, n0, count, x + from * row, out + from * cut.unit, cut.unit);
                    }
            }
        }
        finish(tile, u, count, 0, rows);
    };
    // Whole units u, u + apart, …, all their pieces: R streams.
    const auto abreast = [&](auto known, int u, int apart) {
        constexpr int T = decltype(known)::value, R = side_by_side(T);
        Streams<R> streams;
        for (int r = 0; r < R; ++r) {
            const int p = r % cut.pieces.count, s = r / cut.pieces.count;
            streams.row[r] = p * n + long(u + s * apart) * cut.unit;
            streams.out[r] = at + s * of_unit + p * tile.piece;
        }
        weights.template few<T, R>(streams, cut.unit, x, cut.unit);
        for (int s = 0; s < R / cut.pieces.count; ++s)
            finish(Tile{at + s * of_unit, cut.unit, tile.piece}, u + s * apart, cut.unit, 0, rows);
    };
    const auto streamed = [&](auto known, int first, int end) {  // the first unit that is left
        constexpr int R = side_by_side(decltype(known)::value);
        if constexpr (R > 1)
            if (R % cut.pieces.count == 0) {
                const int units = R / cut.pieces.count, apart = (end - first) / units;
                for (int i = 0; i < apart; ++i) abreast(known, first + i, apart);
                return first + units * apart;
            }
        return first;
    };
    for (Turns turns(step, cut.units); turns.next();) {
        stage();
        const int whole = turns.last == cut.units && cut.last < cut.unit ? turns.last - 1 : turns.last;
        int u = turns.first;
        if (rows == 1) u = streamed(std::integral_constant<int, 1>{}, u, whole);
        if (rows == 2) u = streamed(std::integral_constant<int, 2>{}, u, whole);
        for (; u < turns.last; ++u) unit(u);
    }
}

template <class Way>
GRAPHLLM_ONCE void blocked(const Step& step, const Way& way, int rows, Cut cut, Source source, Finish finish,
                           unsigned char* shared) {
    const int k = way.w.k;
    unsigned char* room = step.scratch;  // of a row: staged, and as f32
    float* x = reinterpret_cast<float*>(room + way.w.row() + 4L * up(k, LANES));
    for (Turns turns(step, stacks(rows)); turns.next();)
        for (int b = turns.first; b < turns.last; ++b)
            for (int lane = 0; lane < STACK && b * STACK + lane < rows; ++lane)
                way.arrange(source(b * STACK + lane, x), lane, shared + b * way.stack_bytes(), room);
    step.wait();

    const int pieces = cut.pieces.count, most = bunch(pieces, cut.unit), columns = most * cut.unit;
    unsigned char* panels = reinterpret_cast<unsigned char*>(x + up(k, LANES));
    float* out = reinterpret_cast<float*>(panels + PANEL_BYTES);
    for (Turns turns(step, cut.units, most); turns.next();)
        for (int u = turns.first; u < turns.last; u += most) {
            const int end = u + most < turns.last ? u + most : turns.last, count = cut.columns(u, end);
            const long piece = long(rows) * columns;
            for (int p = 0; p < pieces; ++p)
                many(way, shared, long(p) * cut.pieces.rows + long(u) * cut.unit, count, rows, out + p * piece, columns,
                     panels);
            for (int v = u; v < end; ++v)
                finish(Tile{out + long(v - u) * cut.unit, columns, piece}, v, cut.columns(v, v + 1), 0, rows);
        }
}

// ``shared`` has room for all rows as any way arranges them.
template <class W>
inline void linear_many(const Step& step, const W& weights, int rows, Cut cut, Source source, Finish finish,
                        unsigned char* shared) {
    blocked(step, Floats<W>{weights}, rows, cut, source, finish, shared);
}

#if defined(GRAPHLLM_DOT_BF16)
inline void linear_many(const Step& step, const Both16& weights, int rows, Cut cut, Source source,
                        Finish finish, unsigned char* shared) {
    blocked(step, Halves{weights}, rows, cut, source, finish, shared);
}
#endif

#if defined(GRAPHLLM_DOT_INT8)
template <class S, int GROUP>
inline void linear_many(const Step& step, const Dynamic<S, GROUP>& weights, int rows, Cut cut, Source source,
                        Finish finish, unsigned char* shared) {
    const Integers<S, GROUP> integers{weights};
    if (integers.able()) return blocked(step, integers, rows, cut, source, finish, shared);
    blocked(step, Floats<Dynamic<S, GROUP>>{weights}, rows, cut, source, finish, shared);
}
#endif

}  // namespace graphllm
