// The normalized LSTM and GRU on the CPU. A time step, forward and backward, is one pass over its memory: all that cpu.py does
// not leave to matrix products. Where the recurrent matrix has codes (codes.h) the whole loop over time runs here. Units and
// samples are split among threads so that no sum depends on their number.
// Letters as in qlstm/__init__.py; y: the recurrent products W_h h_{t-1}; z: the pre-activations; p: a product, x or y. Both
// cells have four rows of d pre-activations: i, f, a, o of the LSTM; r, z, n of the GRU and what r is multiplied with.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include "codes.h"

enum { NONE, LAYER, BATCH };
static const long BLOCK = 32;  // units a thread takes at a time
typedef std::integral_constant<long, BLOCK> Full;  // as the type of a width w: known to the compiler, which keeps sums in registers
static const long PARTS = 8;  // of the samples, each with sums of its own, whatever the number of threads

// The same fields, in the same order, as _Pass of cpu.py. Matrices are row-major; G = gates d, H = 4 d.
template <typename F>
struct Pass {
    long N, d, gates, norm, cell, threads;                            // gates: 4, an LSTM, or 3, a GRU
    long kept;                                                        // 1: act of each step, and y for norms; 0: of one
    long training_x, training_h, training_c;                          // of batch normalization
    double eps_x, eps_h, eps_c;
    const F *x;                                                       // (T, N, G)
    F *y;                                                             // (N, G), of this step; with codes and norms (T, N, G)
    const F *bias;                                                    // (H)
    const F *gain_x, *shift_x, *gain_h, *shift_h;                     // (G)
    const F *gain_c, *shift_c;                                        // (d), if the cell state is normalized
    F *mean_x, *var_x, *mean_h, *var_h;                               // layer (T, N, gates), batch (T, G)
    F *mean_c, *var_c;                                                // (T, d)
    F *act;                                                           // (T, N, H), what a cell's forward makes of z
    F *c, *h;                                                         // (T + 1, N, d); c of an LSTM alone
    F *dh, *dc;                                                       // (N, d): of h_t; of c_t in, of c_{t-1} out
    F *dx, *dy;                                                       // (T, N, G)
    F *dz;                                                            // (N, H)
    F *dbias;                                                         // (PARTS, H), sums over steps; batch (1, H)
    F *dgain_x, *dgain_h;                                             // (PARTS, G); batch (1, G)
    F *dgain_c, *dshift_c;                                            // (d)
};

// As long as it lives, this thread takes numbers below the smallest normal one (1e-38) for 0: a gradient that vanishes over
// hundreds of steps is full of them, and x86 processors are many times slower with them.
struct FlushDenormals {
#ifdef __SSE2__
    unsigned before = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(before | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before); }
#else
    FlushDenormals() {}
#endif
};

// exp for one vector lane, within 2 units in the last place; NaN stays NaN (Cephes, S. Moshier)
static inline float exponential(float x) {
    x = x > 88.37f ? 88.37f : x;
    x = x < -87.33f ? -87.33f : x;
    float n = std::nearbyint(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int bits = (static_cast<int>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}
static inline double exponential(double x) { return std::exp(x); }

template <typename F>
static inline F sigmoid(F x) { return F(1) / (F(1) + exponential(-x)); }

static inline float hyperbolic(float x) {
    float y = std::fabs(x), s = x * x;
    float large = 1.0f - 2.0f / (exponential(2.0f * y) + 1.0f);
    float small = (((-5.70498872745e-3f * s + 2.06390887954e-2f) * s - 5.37397155531e-2f) * s + 1.33314422036e-1f) * s;
    small = (small - 3.33332819422e-1f) * s * x + x;
    return y < 0.625f ? small : std::copysign(large, x);
}
static inline double hyperbolic(double x) { return std::tanh(x); }

// mean and variance of one row of d units
template <typename F>
static void row_statistics(const F *p, long d, F &mean, F &var) {
    F sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < d; j++) sum += p[j];
    const F m = sum / d;
#pragma omp simd reduction(+ : squares)
    for (long j = 0; j < d; j++) squares += (p[j] - m) * (p[j] - m);
    mean = m, var = squares / d;
}

// mean and variance over the samples of w neighbouring units, rows `stride` apart
template <typename F, typename W>
static void column_statistics(const F *p, long N, long stride, W w, F *mean, F *var) {
    F sum[BLOCK] = {0}, squares[BLOCK] = {0};
    for (long n = 0; n < N; n++)
#pragma omp simd
        for (long j = 0; j < w; j++) sum[j] += p[n * stride + j];
    for (long j = 0; j < w; j++) mean[j] = sum[j] / N;
    for (long n = 0; n < N; n++)
#pragma omp simd
        for (long j = 0; j < w; j++) squares[j] += (p[n * stride + j] - mean[j]) * (p[n * stride + j] - mean[j]);
    for (long j = 0; j < w; j++) var[j] = squares[j] / N;
}

// A cell: its gates; the JOINED of these whose normalized products are added up, x to y; and its step for w units of one
// sample, of which `at` is the first in a state (N, d). `forward` makes act of z, and the new state; `backward` makes dz of the
// gradients of the state, and leaves in these what comes to the last state other than through W_h.
struct Lstm {
    static const long GATES = 4, JOINED = 4;

    // c_t = sig(i~) tanh(a~) + sig(f~) c_{t-1}, h_t = sig(o~) tanh(c_t)
    template <typename F, typename W>
    static void forward(const Pass<F> &P, long t, long at, F *z, W w) {
        const long d = P.d, step = P.N * d;
        const F *c_before = P.c + t * step + at;
        F *c = P.c + (t + 1) * step + at, *h = P.h + (t + 1) * step + at;
        F *i = z, *f = z + d, *a = z + 2 * d, *o = z + 3 * d;
#pragma omp simd
        for (long j = 0; j < w; j++) {
            i[j] = sigmoid(i[j]), f[j] = sigmoid(f[j]), a[j] = hyperbolic(a[j]), o[j] = sigmoid(o[j]);
            c[j] = i[j] * a[j] + f[j] * c_before[j];
            h[j] = o[j] * hyperbolic(c[j]);
        }
    }

    // `tanh_c` and `to_c` (the gradient that reaches c_t through h_t) are given with CELL, if the cell state is normalized
    template <bool CELL = false, typename F, typename W>
    static void backward(const Pass<F> &P, long t, long at, const F *act, F *dz, W w, const F *tanh_c = nullptr,
                         const F *to_c = nullptr) {
        const long d = P.d, step = P.N * d;
        const F *c_before = P.c + t * step + at, *c = P.c + (t + 1) * step + at, *dh = P.dh + at;
        const F *i = act, *f = act + d, *a = act + 2 * d, *o = act + 3 * d;
        F *dc = P.dc + at, *di = dz, *df = dz + d, *da = dz + 2 * d, *d_o = dz + 3 * d;
#pragma omp simd
        for (long j = 0; j < w; j++) {
            const F u = CELL ? tanh_c[j] : hyperbolic(c[j]);
            const F total = dc[j] + (CELL ? to_c[j] : dh[j] * o[j] * (1 - u * u));
            di[j] = total * a[j] * i[j] * (1 - i[j]);
            df[j] = total * c_before[j] * f[j] * (1 - f[j]);
            da[j] = total * i[j] * (1 - a[j] * a[j]);
            d_o[j] = dh[j] * u * o[j] * (1 - o[j]);
            dc[j] = total * f[j];
        }
    }
};

struct Gru {
    static const long GATES = 3, JOINED = 2;

    // n_t = tanh(n~ + r s), h_t = (1 - z) n_t + z h_{t-1}, of r = sig(r~), z = sig(z~) and s = N(W_hn h_{t-1}) + b_hn
    template <typename F, typename W>
    static void forward(const Pass<F> &P, long t, long at, F *act, W w) {
        const long d = P.d, step = P.N * d;
        const F *before = P.h + t * step + at;
        F *h = P.h + (t + 1) * step + at, *r = act, *z = act + d, *n = act + 2 * d, *s = act + 3 * d;
#pragma omp simd
        for (long j = 0; j < w; j++) {
            r[j] = sigmoid(r[j]), z[j] = sigmoid(z[j]);
            n[j] = hyperbolic(n[j] + r[j] * s[j]);
            h[j] = (1 - z[j]) * n[j] + z[j] * before[j];
        }
    }

    template <typename F, typename W>
    static void backward(const Pass<F> &P, long t, long at, const F *act, F *dz, W w) {
        const long d = P.d, step = P.N * d;
        const F *before = P.h + t * step + at, *r = act, *z = act + d, *n = act + 2 * d, *s = act + 3 * d;
        F *dh = P.dh + at, *dr = dz, *d_z = dz + d, *dn = dz + 2 * d, *ds = dz + 3 * d;
#pragma omp simd
        for (long j = 0; j < w; j++) {
            const F total = dh[j] * (1 - z[j]) * (1 - n[j] * n[j]);
            dr[j] = total * s[j] * r[j] * (1 - r[j]);
            d_z[j] = dh[j] * (before[j] - n[j]) * z[j] * (1 - z[j]);
            dn[j] = total;
            ds[j] = total * r[j];
            dh[j] = dh[j] * z[j];
        }
    }
};

// The row of z that the recurrent product of a gate g is part of
template <typename Cell>
static constexpr long row_of(long g) { return g < Cell::JOINED ? g : g + 1; }

// Rows of z for w units of gate g: of_x(j) + bias and of_h(j, bias), where of_h(j, sum) adds a recurrent product to a sum; or,
// in one row, of_h(j, of_x(j)) + bias
template <typename Cell, typename F, typename W, typename X, typename H>
static void sum_up(long g, long d, const F *bias, const F *bias_h, F *z, W w, X of_x, H of_h) {
    if (g < Cell::JOINED) {
#pragma omp simd
        for (long j = 0; j < w; j++) z[j] = of_h(j, of_x(j)) + bias[j];
    } else {
#pragma omp simd
        for (long j = 0; j < w; j++) z[j] = of_x(j) + bias[j], z[d + j] = of_h(j, bias_h[j]);
    }
}

template <typename Cell, typename F>
static void forward_sample(const Pass<F> &P, long t, long n) {
    const long d = P.d, G = Cell::GATES * d;
    F *z = P.act + (P.kept * t * P.N + n) * 4 * d;
    for (long g = 0; g < Cell::GATES; g++) {
        const long at = (t * P.N + n) * Cell::GATES + g, o = g * d;
        const F *x = P.x + (t * P.N + n) * G + o, *y = P.y + n * G + o, *bias = P.bias + o;
        if (P.norm == NONE) {
            sum_up<Cell>(g, d, bias, bias + d, z + o, d, [=](long j) { return x[j]; },
                         [=](long j, F sum) { return sum + y[j]; });
            continue;
        }
        row_statistics(x, d, P.mean_x[at], P.var_x[at]);
        row_statistics(y, d, P.mean_h[at], P.var_h[at]);
        const F m_x = P.mean_x[at], m_h = P.mean_h[at];
        const F r_x = F(1) / std::sqrt(P.var_x[at] + F(P.eps_x)), r_h = F(1) / std::sqrt(P.var_h[at] + F(P.eps_h));
        const F *gain_x = P.gain_x + o, *shift_x = P.shift_x + o, *gain_h = P.gain_h + o, *shift_h = P.shift_h + o;
        sum_up<Cell>(g, d, bias, bias + d, z + o, d,
                     [=](long j) { return gain_x[j] * ((x[j] - m_x) * r_x) + shift_x[j]; },
                     [=](long j, F sum) { return sum + gain_h[j] * ((y[j] - m_h) * r_h) + shift_h[j]; });
    }
    Cell::forward(P, t, n * d, z, d);
}

template <typename Cell, typename F, typename W>
static void forward_block(const Pass<F> &P, long t, long j0, W w) {
    const long d = P.d, G = Cell::GATES * d, H = 4 * d, N = P.N, step = N * d;
    const F *x = P.x + t * N * G, *y = P.y;
    F *act = P.act + P.kept * t * N * H;
    for (long g = 0; g < Cell::GATES; g++) {
        const long o = g * d + j0, at = t * G + o;
        if (P.training_x) column_statistics(x + o, N, G, w, P.mean_x + at, P.var_x + at);
        if (P.training_h) column_statistics(y + o, N, G, w, P.mean_h + at, P.var_h + at);
        F s_x[BLOCK], s_h[BLOCK], rest[BLOCK], rest_h[BLOCK];
        for (long j = 0; j < w; j++) {
            s_x[j] = P.gain_x[o + j] / std::sqrt(P.var_x[at + j] + F(P.eps_x));
            s_h[j] = P.gain_h[o + j] / std::sqrt(P.var_h[at + j] + F(P.eps_h));
            if (g < Cell::JOINED)
                rest[j] = P.shift_x[o + j] + P.shift_h[o + j] + P.bias[o + j];
            else
                rest[j] = P.shift_x[o + j] + P.bias[o + j], rest_h[j] = P.shift_h[o + j] + P.bias[o + d + j];
        }
        const F *m_x = P.mean_x + at, *m_h = P.mean_h + at;
        for (long n = 0; n < N; n++) {
            const F *p_x = x + n * G + o, *p_h = y + n * G + o;
            sum_up<Cell>(g, d, rest, rest_h, act + n * H + o, w, [&](long j) { return s_x[j] * (p_x[j] - m_x[j]); },
                         [&](long j, F sum) { return sum + s_h[j] * (p_h[j] - m_h[j]); });
        }
    }
    for (long n = 0; n < N; n++) Cell::forward(P, t, n * d + j0, act + n * H + j0, w);
    if (Cell::GATES == 3 || !P.cell) return;
    F *c = P.c + (t + 1) * step, *h = P.h + (t + 1) * step;
    const long at = t * d + j0;
    if (P.training_c) column_statistics(c + j0, N, d, w, P.mean_c + at, P.var_c + at);
    for (long n = 0; n < N; n++)
#pragma omp simd
        for (long j = 0; j < w; j++) {
            const F scale = P.gain_c[j0 + j] / std::sqrt(P.var_c[at + j] + F(P.eps_c));
            h[n * d + j0 + j] = act[n * H + 3 * d + j0 + j]
                                * hyperbolic(scale * (c[n * d + j0 + j] - P.mean_c[at + j]) + P.shift_c[j0 + j]);
        }
}

// Layer normalization of one row backwards: dp = r (g dz - mean(g dz) - z^ mean(g dz z^)), z^ = (p - m) r; adds dz z^ to
// dgain
template <typename F>
static void layer_backward(const F *p, const F *gain, const F *dz, F m, F var, F eps, long d, F *dp, F *dgain) {
    const F r = F(1) / std::sqrt(var + eps);
    F sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
    for (long j = 0; j < d; j++) sum += gain[j] * dz[j], along += gain[j] * dz[j] * ((p[j] - m) * r);
    const F mean = sum / d, slope = along / d;
#pragma omp simd
    for (long j = 0; j < d; j++) {
        const F z = (p[j] - m) * r;
        dp[j] = r * (gain[j] * dz[j] - mean - z * slope);
        dgain[j] += dz[j] * z;
    }
}

template <typename Cell, typename F>
static void backward_sample(const Pass<F> &P, long t, long n, long part) {
    const long d = P.d, G = Cell::GATES * d, H = 4 * d, row = (t * P.N + n) * G;
    const bool at_once = P.norm == NONE && Cell::JOINED == Cell::GATES;  // dx = dy = dz
    F *dz = at_once ? P.dx + row : P.dz + n * H, *dbias = P.dbias + part * H;
    Cell::backward(P, t, n * d, P.act + (t * P.N + n) * H, dz, d);
#pragma omp simd
    for (long j = 0; j < H; j++) dbias[j] += dz[j];
    if (at_once) return;
    for (long g = 0; g < Cell::GATES; g++) {
        const long at = (t * P.N + n) * Cell::GATES + g, o = g * d, sums = part * G + o;
        const F eps_x = P.eps_x, eps_h = P.eps_h, *dz_h = dz + row_of<Cell>(g) * d;
        if (P.norm == NONE) {
            std::copy(dz + o, dz + o + d, P.dx + row + o), std::copy(dz_h, dz_h + d, P.dy + row + o);
            continue;
        }
        layer_backward(P.x + row + o, P.gain_x + o, dz + o, P.mean_x[at], P.var_x[at], eps_x, d, P.dx + row + o,
                       P.dgain_x + sums);
        layer_backward(P.y + n * G + o, P.gain_h + o, dz_h, P.mean_h[at], P.var_h[at], eps_h, d, P.dy + row + o,
                       P.dgain_h + sums);
    }
}

// Batch normalization of w columns backwards: dp = g r (dz - mean(dz) - z^ mean(dz z^)), means over the samples;
// adds sum(dz z^) to dgain, returns sum(dz). With running statistics, which are constants, dp = g r dz: no sum is part of
// it, not even times 0, as it may be NaN.
template <typename F, typename W>
static void batch_backward(const F *p, long stride, const F *dz, long stride_z, const F *gain, const F *mean, const F *var,
                           F eps, bool training, long N, W w, F *dp, F *dgain, F *sum) {
    F r[BLOCK], along[BLOCK] = {0};
    for (long j = 0; j < w; j++) r[j] = F(1) / std::sqrt(var[j] + eps), sum[j] = 0;
    for (long n = 0; n < N; n++)
#pragma omp simd
        for (long j = 0; j < w; j++) {
            const F value = dz[n * stride_z + j];
            sum[j] += value, along[j] += value * ((p[n * stride + j] - mean[j]) * r[j]);
        }
    const F share = F(1) / N;
    for (long j = 0; j < w; j++) dgain[j] += along[j];
    for (long n = 0; n < N; n++)
        if (training) {
#pragma omp simd
            for (long j = 0; j < w; j++) {
                const long k = n * stride + j;
                dp[k] = gain[j] * r[j]
                        * (dz[n * stride_z + j] - sum[j] * share - (p[k] - mean[j]) * r[j] * along[j] * share);
            }
        } else {
#pragma omp simd
            for (long j = 0; j < w; j++) dp[n * stride + j] = gain[j] * r[j] * dz[n * stride_z + j];
        }
}

template <typename Cell, typename F, typename W>
static void backward_block(const Pass<F> &P, long t, long j0, W w) {
    const long d = P.d, G = Cell::GATES * d, H = 4 * d, N = P.N;
    const F *act = P.act + t * N * H;
    F *dz = P.dz, sum[BLOCK];
    if (Cell::GATES == 4 && P.cell) {  // into the room of the candidate and the input gate of dz, which are not needed yet
        const F *c = P.c + (t + 1) * N * d;
        const long at = t * d + j0;
        for (long n = 0; n < N; n++) {
            F *u = dz + n * H + j0, *dcn = dz + n * H + d + j0;
#pragma omp simd
            for (long j = 0; j < w; j++) {
                const F scale = P.gain_c[j0 + j] / std::sqrt(P.var_c[at + j] + F(P.eps_c));
                u[j] = hyperbolic(scale * (c[n * d + j0 + j] - P.mean_c[at + j]) + P.shift_c[j0 + j]);
                dcn[j] = P.dh[n * d + j0 + j] * act[n * H + 3 * d + j0 + j] * (1 - u[j] * u[j]);
            }
        }
        F normalized[BLOCK], along[BLOCK] = {0}, r[BLOCK];
        for (long j = 0; j < w; j++) r[j] = F(1) / std::sqrt(P.var_c[at + j] + F(P.eps_c)), sum[j] = 0;
        for (long n = 0; n < N; n++)
            for (long j = 0; j < w; j++) {
                const F dcn = dz[n * H + d + j0 + j];
                normalized[j] = (c[n * d + j0 + j] - P.mean_c[at + j]) * r[j];
                sum[j] += dcn, along[j] += dcn * normalized[j];
            }
        for (long j = 0; j < w; j++) P.dshift_c[j0 + j] += sum[j], P.dgain_c[j0 + j] += along[j];
        const F share = F(1) / N;
        for (long n = 0; n < N; n++)
            for (long j = 0; j < w; j++) {
                F &value = dz[n * H + d + j0 + j];
                const F z = (c[n * d + j0 + j] - P.mean_c[at + j]) * r[j];
                if (P.training_c) value = value - sum[j] * share - z * along[j] * share;
                value *= P.gain_c[j0 + j] * r[j];
            }
    }
    for (long n = 0; n < N; n++) {
        const long s = n * d + j0, k = n * H + j0;
        if constexpr (Cell::GATES == 4)
            if (P.cell) {
                F u[BLOCK], v[BLOCK];
                std::copy(dz + k, dz + k + w, u), std::copy(dz + k + d, dz + k + d + w, v);
                Cell::template backward<true>(P, t, s, act + k, dz + k, w, u, v);
                continue;
            }
        Cell::backward(P, t, s, act + k, dz + k, w);
    }
    for (long g = 0; g < Cell::GATES; g++) {
        const long o = g * d + j0, h = row_of<Cell>(g) * d + j0, at = t * G + o, first = t * N * G + o;
        const F eps_x = P.eps_x, eps_h = P.eps_h;
        batch_backward(P.x + first, G, dz + o, H, P.gain_x + o, P.mean_x + at, P.var_x + at, eps_x, P.training_x, N, w,
                       P.dx + first, P.dgain_x + o, sum);
        for (long j = 0; j < w; j++) P.dbias[o + j] += sum[j];
        batch_backward(P.y + o, G, dz + h, H, P.gain_h + o, P.mean_h + at, P.var_h + at, eps_h, P.training_h, N, w,
                       P.dy + first, P.dgain_h + o, sum);
        for (long j = 0; j < w && h != o; j++) P.dbias[h + j] += sum[j];
    }
}

// The two passes of a step, each called by all threads of a team, which share the work and wait for each other
template <typename Cell, typename F>
static void forward_cell(const Pass<F> &P, long t) {
    if (P.norm == BATCH) {
#pragma omp for schedule(static)
        for (long j = 0; j < P.d; j += BLOCK)
            P.d - j < BLOCK ? forward_block<Cell>(P, t, j, P.d - j) : forward_block<Cell>(P, t, j, Full());
    } else {
#pragma omp for schedule(static)
        for (long n = 0; n < P.N; n++) forward_sample<Cell>(P, t, n);
    }
}

template <typename Cell, typename F>
static void backward_cell(const Pass<F> &P, long t) {
    if (P.norm == BATCH) {
#pragma omp for schedule(static)
        for (long j = 0; j < P.d; j += BLOCK)
            P.d - j < BLOCK ? backward_block<Cell>(P, t, j, P.d - j) : backward_block<Cell>(P, t, j, Full());
    } else {
#pragma omp for schedule(static)
        for (long part = 0; part < PARTS; part++)
            for (long n = part * P.N / PARTS; n < (part + 1) * P.N / PARTS; n++) backward_sample<Cell>(P, t, n, part);
    }
}

template <typename F>
static void forward(const Pass<F> &P, long t) { P.gates == 3 ? forward_cell<Gru>(P, t) : forward_cell<Lstm>(P, t); }
template <typename F>
static void backward(const Pass<F> &P, long t) { P.gates == 3 ? backward_cell<Gru>(P, t) : backward_cell<Lstm>(P, t); }

template <typename F>
static void one_step(void (*pass)(const Pass<F> &, long), const Pass<F> &P, long t) {
#pragma omp parallel num_threads(P.threads)
    {
        FlushDenormals flush;
        pass(P, t);
    }
}

extern "C" {
void forward_float32(const Pass<float> *P, long t) { one_step(forward<float>, *P, t); }
void forward_float64(const Pass<double> *P, long t) { one_step(forward<double>, *P, t); }
void backward_float32(const Pass<float> *P, long t) { one_step(backward<float>, *P, t); }
void backward_float64(const Pass<double> *P, long t) { one_step(backward<double>, *P, t); }

// All steps: y_t = W_h h_{t-1}, then the pass of the step
void forward_codes(const Pass<float> *all, long T, const Codes *W_h) {
#pragma omp parallel num_threads(all->threads)
    {
        FlushDenormals flush;
        Pass<float> P = *all;
        for (long t = 0; t < T; t++) {
            multiply(*W_h, P.h + t * P.N * P.d, P.N, nullptr, P.y, P.threads);
            forward(P, t);
            if (P.kept && P.norm != NONE) P.y += P.N * P.gates * P.d;
        }
    }
}

// All steps, from the last: the pass of the step, then d loss / d h_{t-1} = W_h' d loss / d y_t + its own part of the loss.
// `transposed` is W_h', d_output (T, N, d); P.dh is that of h_T in, of h_0 out. In a GRU h_{t-1} is a part of h_t, too.
void backward_codes(const Pass<float> *all, long T, const Codes *transposed, const float *d_output) {
#pragma omp parallel num_threads(all->threads)
    {
        FlushDenormals flush;
        Pass<float> P = *all;
        const long step = P.N * P.d, products = P.gates * step;
        for (long t = T - 1; t >= 0; t--) {
            if (P.norm != NONE) P.y = all->y + t * products;
            backward(P, t);
            multiply(*transposed, P.dy + t * products, P.N, t ? d_output + (t - 1) * step : nullptr, P.dh, P.threads,
                     P.gates == 3);
        }
    }
}

void multiply_codes(const Codes *W, const float *x, long N, float *out, long threads) {
#pragma omp parallel num_threads(threads)
    {
        FlushDenormals flush;
        multiply(*W, x, N, nullptr, out, threads);
    }
}

void pick_codes(const Codes *W, const int64_t *symbols, long N, float *out) { pick(*W, symbols, N, out); }

long find_codes(const float *w, long rows, long n, uint32_t *bits, float *scales) {
    return find_planes(w, rows, n, bits, scales);
}

void transpose_codes(const Codes *W, uint32_t *out) { transpose(*W, out); }

const char *instructions() { return INSTRUCTIONS; }
}
