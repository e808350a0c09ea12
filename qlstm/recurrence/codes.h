// Products of float32 vectors with a matrix whose entries are +1 and -1, one bit each, which is never expanded.
//
// K inputs have 2^K signed sums, +-a +-b +-c +-d for K = 4. They are computed once, as a small table that fits a register;
// K bits of a row's codes are then an index into it, and one instruction looks up the sums of all rows in a register. For
// K = 4 on AVX-512 that is 64 weights for a lookup, an addition and a share of a shift. Everything is float32: only the
// order of the additions differs from that of a plain product.
//
//            rows in a register   K   lookup
// AVX-512    16                   4   vpermps
// AVX2        8                   2   vpermilps
// elsewhere   4                   1   the bit flips the sign (NEON, SSE2, ...)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

// W = sum over planes p of diag(post_p) B_p diag(pre_p), with B_p of +1 (bit 1) and -1 (bit 0)
struct Codes {
    long rows, n, planes, share;
    const uint32_t *bits;      // (planes, ceil(rows / 16), ceil(n / 32), 16): bit j of a word is input 32 c + j of a row
    const float *pre, *post;   // (planes, n / share), (planes, rows / share), for `share` neighbours each; null: all 1
};

static const long ROWS = 16;  // of a block, whose words lie side by side

// A register holds the sums of LANES rows. R registers of rows and S samples are summed up at a time, R_ONE for a single
// sample: as many as there are registers for. PANEL: the words of a row whose tables are kept, so that they stay in L1.
#if defined(__AVX512F__)
static const char *const INSTRUCTIONS = "AVX-512";
static const int LANES = 16, K = 4, TABLE = 16, R_ONE = 4, R_MANY = 2, S_MANY = 4;
static const long PANEL = 8;
#elif defined(__AVX2__)
static const char *const INSTRUCTIONS = "AVX2";
static const int LANES = 8, K = 2, TABLE = 4, R_ONE = 6, R_MANY = 2, S_MANY = 4;
static const long PANEL = 16;
#else
static const char *const INSTRUCTIONS = "plain C++";
static const int LANES = 4, K = 1, TABLE = 4, R_ONE = 4, R_MANY = 2, S_MANY = 4;
static const long PANEL = 8;
#endif
static const long GROUPS = 32 / K;  // of a word

typedef float Sums __attribute__((vector_size(4 * LANES)));  // of g++ and clang++: +, ^ and >> act on every lane
typedef uint32_t Index __attribute__((vector_size(4 * LANES)));

// `lookup`: the signed sum of one group that each row's lowest K bits ask for. `fill`: the tables of 4 inputs.
#if defined(__AVX512F__)
static inline Sums lookup(const float *table, Index i) {
    // `maskz` for all lanes: without a mask g++ 12 warns of its own header
    return (Sums)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)i, _mm512_loadu_ps(table));
}
static inline void fill(const float *x, float *tables) {
    const Sums a = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
               b = {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1},
               c = {-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1},
               d = {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1};
    const Sums sums = (a * x[0] + b * x[1]) + (c * x[2] + d * x[3]);
    std::memcpy(tables, &sums, sizeof sums);
}
#elif defined(__AVX2__)
static inline Sums lookup(const float *table, Index i) {
    return (Sums)_mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128 *>(table)), (__m256i)i);
}
static inline void fill(const float *x, float *tables) {
    const __m256 inputs = _mm256_broadcast_ps(reinterpret_cast<const __m128 *>(x));
    const Index first = {0, 0, 0, 0, 2, 2, 2, 2}, second = {1, 1, 1, 1, 3, 3, 3, 3};
    const Sums a = {-1, 1, -1, 1, -1, 1, -1, 1}, b = {-1, -1, 1, 1, -1, -1, 1, 1};
    const Sums sums = a * (Sums)_mm256_permutevar_ps(inputs, (__m256i)first) +
                      b * (Sums)_mm256_permutevar_ps(inputs, (__m256i)second);
    std::memcpy(tables, &sums, sizeof sums);
}
#else
static inline Sums lookup(const float *table, Index i) {
    Index minus;
    std::memcpy(&minus, table, sizeof minus);
    return (Sums)(minus ^ i << 31);
}
static inline void fill(const float *x, float *tables) {  // -x for every lane, which a bit of 1 makes x
    for (int j = 0; j < 16; j++) tables[j] = -x[j / 4];
}
#endif

// The same for `inputs` inputs of a sample, times `pre` where there is one
static inline void fill(const float *x, const float *pre, long inputs, float *tables) {
    float scaled[32 * PANEL];
    for (long j = 0; j < inputs; j++) scaled[j] = pre ? pre[j] * x[j] : x[j];
    for (long j = inputs; j % 4; j++) scaled[j] = 0;
    for (long j = 0; j < inputs; j += 4) fill(scaled + j, tables + j / K * TABLE);
}

static inline long words(long n) { return (n + 31) / 32; }
static inline long blocks(long rows) { return (rows + ROWS - 1) / ROWS; }

// a b + c. Explicit, as compilers fuse products and sums in some loops and not in others, where they can at all.
static inline float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline void add_scaled(const float *sums, const float *post, long count, float *__restrict out) {
    if (post)
        for (long r = 0; r < count; r++) out[r] = fused(post[r], sums[r], out[r]);
    else
        for (long r = 0; r < count; r++) out[r] += sums[r];
}

// Adds the products of S samples with R registers of rows, for `groups` groups of inputs: those of a panel. `bits` of the
// first register's first word; `tables` of the samples, (S, PANEL * GROUPS, TABLE); `rows` from the first of these on.
template <int R, int S>
static void add_rows(const uint32_t *bits, long all_words, long groups, const float *tables, const float *post, long rows,
                     float *__restrict out, long stride) {
    Sums sums[R][S] = {};
    for (long c = 0; c * GROUPS < groups; c++) {
        Index index[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            std::memcpy(index + r, bits + (r * LANES / ROWS * all_words + c) * ROWS + r * LANES % ROWS, sizeof(Index));
        const float *table = tables + c * GROUPS * TABLE;
        const long count = std::min(GROUPS, groups - c * GROUPS);
        for (long g = 0; g < count; g++, table += TABLE) {
#pragma GCC unroll 8
            for (int s = 0; s < S; s++)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) sums[r][s] += lookup(table + s * PANEL * GROUPS * TABLE, index[r]);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) index[r] >>= K;
        }
    }
    float lanes[S][R * LANES];  // copied in unrolled loops: compilers keep `sums` in registers for constant indices alone
#pragma GCC unroll 8
    for (int s = 0; s < S; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) std::memcpy(lanes[s] + r * LANES, &sums[r][s], sizeof(Sums));
    for (int s = 0; s < S; s++) add_scaled(lanes[s], post, std::min<long>(R * LANES, rows), out + s * stride);
}

// The scales of rows or columns from `first` on, as many as `buffer` has room for and there are (`end`)
template <long COUNT>
static inline const float *spread(const float *scales, long share, long first, long end, float (&buffer)[COUNT]) {
    if (!scales || share == 1) return scales ? scales + first : nullptr;
    for (long k = 0; k < std::min(COUNT, end - first); k++) buffer[k] = scales[(first + k) / share];
    return buffer;
}

// Whether a plane has a part in these rows. A binary matrix with a few zeros has a second plane for their rows alone.
static inline bool any(const float *post, long count) {
    return !post || std::any_of(post, post + count, [](float scale) { return scale != 0; });
}

// Adds W x to the outputs of S samples, for the blocks of rows from r0 to r1
template <int S>
static void add_products(const Codes &W, long r0, long r1, const float *x, float *out) {
    const int R = S == 1 ? R_ONE : R_MANY;
    const long all = words(W.n);
    alignas(64) float tables[S * PANEL * GROUPS * TABLE];
    for (long c = 0; c < all; c += PANEL)
        for (long p = 0; p < W.planes; p++) {
            const long first = 32 * c, inputs = std::min(32 * PANEL, W.n - first);
            float columns[32 * PANEL], rows[R * LANES > ROWS ? R * LANES : ROWS];
            const float *pre = spread(W.pre ? W.pre + p * W.n / W.share : nullptr, W.share, first, W.n, columns);
            if (pre || p == 0)  // all planes have the same tables without
                for (int s = 0; s < S; s++) fill(x + s * W.n + first, pre, inputs, tables + s * PANEL * GROUPS * TABLE);
            const uint32_t *bits = W.bits + (p * blocks(W.rows) * all + c) * ROWS;
            const float *scales = W.post ? W.post + p * W.rows / W.share : nullptr;
            const long groups = (inputs + K - 1) / K, step = R * LANES;
            long r = r0;
            for (; r + step <= r1; r += step) {
                const float *post = spread(scales, W.share, r, W.rows, rows);
                if (p == 0 || any(post, std::min(step, W.rows - r)))
                    add_rows<R, S>(bits + r / ROWS * all * ROWS + r % ROWS, all, groups, tables, post, W.rows - r, out + r,
                                   W.rows);
            }
            for (; r < r1; r += ROWS) {
                const float *post = spread(scales, W.share, r, W.rows, rows);
                if (p == 0 || any(post, std::min(ROWS, W.rows - r)))
                    add_rows<ROWS / LANES, S>(bits + r * all, all, groups, tables, post, W.rows - r, out + r, W.rows);
            }
        }
}

// out = start + W x for N samples, with `more` than what is in out: x (N, n), out and start (N, rows); start may be null, for
// 0. Called by all threads of a team, which share the work and wait for each other. No sum depends on the number of threads or
// of samples.
static void multiply(const Codes &W, const float *x, long N, const float *start, float *out, long threads, bool more = false) {
    const long all = blocks(W.rows);
#pragma omp for schedule(static)
    for (long t = 0; t < threads; t++)
        for (long s = 0; s < N; s += S_MANY) {
            // All samples have N * all blocks of rows, of which thread t has an equal part: of these samples, from b0 to b1
            const long S = std::min<long>(S_MANY, N - s), from = t * N * all / threads, to = (t + 1) * N * all / threads;
            const long b0 = std::max(0L, from - s * all) / S, b1 = std::min(all, (to - s * all) / S);
            if (b0 >= b1) continue;
            const long r0 = b0 * ROWS, r1 = b1 * ROWS;
            for (long k = s; k < s + S; k++)
                for (long r = k * W.rows + r0; r < k * W.rows + std::min(r1, W.rows); r++)
                    out[r] = (start ? start[r] : 0) + (more ? out[r] : 0);
            if (S == S_MANY)
                add_products<S_MANY>(W, r0, r1, x + s * W.n, out + s * W.rows);
            else
                for (long k = s; k < s + S; k++) add_products<1>(W, r0, r1, x + k * W.n, out + k * W.rows);
        }
}

// out = W e, the column of W that a one-hot vector picks, for N symbols from 0 to n - 1
static void pick(const Codes &W, const int64_t *symbols, long N, float *out) {
    const long all = words(W.n);
    for (long s = 0; s < N; s++)
        for (long b = 0; b < blocks(W.rows); b++) {
            const long first = b * ROWS, count = std::min(ROWS, W.rows - first);
            float sums[ROWS] = {0};
            for (long p = 0; p < W.planes; p++) {
                const uint32_t *bits = W.bits + ((p * blocks(W.rows) + b) * all + symbols[s] / 32) * ROWS;
                for (long k = 0; k < count; k++) {
                    const float magnitude = W.post ? W.post[(p * W.rows + first + k) / W.share] : 1;
                    sums[k] += magnitude * (2 * static_cast<int>(bits[k] >> (symbols[s] % 32) & 1) - 1);
                }
            }
            std::copy(sums, sums + count, out + s * W.rows + first);
        }
}

// Finds the planes of a matrix (rows, n), each of whose rows has at most two magnitudes: alpha_1 + alpha_2 and
// alpha_1 - alpha_2. Returns how many there are, 1 or 2, or 0 if a row has more magnitudes or one that is not finite.
// Fills bits (2, ...), which are 0 before, and scales (2, rows).
static long find_planes(const float *w, long rows, long n, uint32_t *bits, float *scales) {
    const long all = words(n), plane = blocks(rows) * all * ROWS;
    long planes = 1;
    for (long r = 0; r < rows; r++, w += n) {
        float high = 0, low = INFINITY;
        for (long j = 0; j < n; j++) high = std::max(high, std::fabs(w[j])), low = std::min(low, std::fabs(w[j]));
        if (!std::isfinite(high)) return 0;
        if (low != high) planes = 2;
        for (long c = 0; c < all; c++) {
            uint32_t first = 0, second = 0;
            bool known = true;
            for (long j = 0; j < std::min(32L, n - 32 * c); j++) {
                const float value = w[32 * c + j], size = std::fabs(value);
                const bool positive = value >= 0, large = size == high;
                known &= large | (size == low);  // NaN is neither
                first |= uint32_t(positive) << j, second |= uint32_t(positive == large) << j;
            }
            if (!known) return 0;
            uint32_t *word = bits + ((r / ROWS) * all + c) * ROWS + r % ROWS;
            word[0] = first, word[plane] = second;
        }
        scales[r] = (high + low) / 2, scales[rows + r] = (high - low) / 2;
    }
    return planes;
}

// The bits of W' from those of W, in tiles of 32 x 32 (Warren, Hacker's Delight, section 7-3)
static void transpose(const Codes &W, uint32_t *out) {
    const long up = blocks(W.rows), across = blocks(W.n);
    for (long p = 0; p < W.planes; p++)
        for (long R = 0; R < words(W.rows); R++)
            for (long c = 0; c < words(W.n); c++) {
                uint32_t tile[32], mask = 0xFFFF;
                for (long k = 0; k < 32; k++) {
                    const long b = 2 * R + k / ROWS;
                    tile[k] = b < up ? W.bits[((p * up + b) * words(W.n) + c) * ROWS + k % ROWS] : 0;
                }
                for (int j = 16; j; j >>= 1, mask ^= mask << j)
                    for (int k = 0; k < 32; k = ((k | j) + 1) & ~j) {
                        const uint32_t swap = ((tile[k] >> j) ^ tile[k | j]) & mask;
                        tile[k] ^= swap << j, tile[k | j] ^= swap;
                    }
                for (long k = 0; k < 32; k++) {
                    const long b = 2 * c + k / ROWS;
                    if (b < across) out[((p * across + b) * words(W.rows) + R) * ROWS + k % ROWS] = tile[k];
                }
            }
}
