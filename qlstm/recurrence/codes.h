// Products of float32 vectors with a matrix whose entries are +1 and -1, one bit each, which is never expanded.
//
// K inputs have 2^K signed sums, +-a +-b +-c +-d for K = 4. They are computed once, as a small table that fits a register;
// K bits of a row's codes are then an index into it, and one instruction looks up the sums of all rows in a register. For
// K = 4 on AVX-512 that is 64 weights for a lookup, an addition and a share of a shift. Everything is float32: only the
// order of the additions differs from that of a plain product.
//
//            registers of   K   lookup
// AVX-512    16 rows        4   vpermps
// AVX2        8 rows        2   vpermilps
// elsewhere  what there is  1   the sign is flipped by the bit (GCC and clang vectorize it for NEON, SSE2, ...)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

// W = sum over planes p of diag(post_p) B_p diag(pre_p), with B_p of +1 (bit 1) and -1 (bit 0)
struct Codes {
    long rows, n, planes;
    const uint32_t *bits;      // (planes, ceil(rows / 16), ceil(n / 32), 16): bit j of a word is input 32 c + j of a row
    const float *pre, *post;   // (planes, n), (planes, rows); null: all 1
};

static const long ROWS = 16;   // of a block, the lanes of all registers together
static const long PANEL = 16;  // words of a row whose tables are kept at a time: 512 inputs

#if defined(__AVX512F__)

static const int K = 4;
static const char *const INSTRUCTIONS = "AVX-512";
typedef __m512 Sums;
typedef __m512i Index;
static inline Sums zero() { return _mm512_setzero_ps(); }
static inline Sums add(Sums a, Sums b) { return _mm512_add_ps(a, b); }
static inline Index load(const uint32_t *words) { return _mm512_loadu_si512(words); }
static inline Index next(Index i) { return _mm512_srli_epi32(i, K); }
static inline void store(float *out, Sums a) { _mm512_storeu_ps(out, a); }
static inline Sums lookup(const float *table, Index i) { return _mm512_permutexvar_ps(i, _mm512_loadu_ps(table)); }
static inline void fill(const float *x, float *table) {
    const __m512 a = _mm512_set_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1),
                 b = _mm512_set_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1),
                 c = _mm512_set_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1),
                 d = _mm512_set_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m512 t = _mm512_fmadd_ps(b, _mm512_set1_ps(x[1]), _mm512_mul_ps(a, _mm512_set1_ps(x[0])));
    t = _mm512_fmadd_ps(d, _mm512_set1_ps(x[3]), _mm512_fmadd_ps(c, _mm512_set1_ps(x[2]), t));
    _mm512_storeu_ps(table, t);
}

#elif defined(__AVX2__)

static const int K = 2;
static const char *const INSTRUCTIONS = "AVX2";
struct Sums { __m256 low, high; };
struct Index { __m256i low, high; };
static inline Sums zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Sums add(Sums a, Sums b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
static inline Index load(const uint32_t *words) {
    const __m256i *at = reinterpret_cast<const __m256i *>(words);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
static inline Index next(Index i) { return {_mm256_srli_epi32(i.low, K), _mm256_srli_epi32(i.high, K)}; }
static inline void store(float *out, Sums a) { _mm256_storeu_ps(out, a.low), _mm256_storeu_ps(out + 8, a.high); }
static inline Sums lookup(const float *table, Index i) {
    const __m256 t = _mm256_broadcast_ps(reinterpret_cast<const __m128 *>(table));
    return {_mm256_permutevar_ps(t, i.low), _mm256_permutevar_ps(t, i.high)};
}
static inline void fill(const float *x, float *table) {
    const float sum = x[1] + x[0], difference = x[1] - x[0];
    table[0] = -sum, table[1] = -difference, table[2] = difference, table[3] = sum;
}

#else

static const int K = 1;
static const char *const INSTRUCTIONS = "plain C++";
struct Sums { float lane[ROWS]; };
struct Index { uint32_t lane[ROWS]; };
static inline Sums zero() { return {}; }
static inline Sums add(Sums a, Sums b) {
    for (long r = 0; r < ROWS; r++) a.lane[r] += b.lane[r];
    return a;
}
static inline Index load(const uint32_t *words) {
    Index i;
    std::memcpy(i.lane, words, sizeof i.lane);
    return i;
}
static inline Index next(Index i) {
    for (long r = 0; r < ROWS; r++) i.lane[r] >>= 1;
    return i;
}
static inline void store(float *out, Sums a) { std::memcpy(out, a.lane, sizeof a.lane); }
static inline Sums lookup(const float *table, Index i) {  // -x, its sign flipped by a bit of 1
    uint32_t minus;
    std::memcpy(&minus, table, sizeof minus);
    Sums sums;
    for (long r = 0; r < ROWS; r++) i.lane[r] = minus ^ (i.lane[r] << 31);
    std::memcpy(sums.lane, i.lane, sizeof sums.lane);
    return sums;
}
static inline void fill(const float *x, float *table) { table[0] = -x[0]; }

#endif

static const long TABLE = 1 << K, GROUPS = 32 / K;  // sums of a group of K inputs; groups of a word
// Blocks of rows and samples that are summed up at a time, as many as there are registers for: for one sample, for several
static const int R_ONE = K == 4 ? 6 : K == 2 ? 3 : 1, R_MANY = K == 4 ? 2 : 1, S_MANY = K == 1 ? 2 : 4;

static inline long words(long n) { return (n + 31) / 32; }
static inline long blocks(long rows) { return (rows + ROWS - 1) / ROWS; }

// Adds the products of S samples with R blocks of rows, for `groups` groups of inputs: of one panel.
// `bits` of the first block's first word; `tables` of the samples, (S, PANEL * GROUPS, TABLE).
template <int R, int S>
static void add_blocks(const uint32_t *bits, long all_words, long groups, const float *tables, const float *post, long rows,
                       float *out, long stride) {
    Sums sums[R][S];
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++) sums[r][s] = zero();
    for (long c = 0; c * GROUPS < groups; c++) {
        Index index[R];
        for (int r = 0; r < R; r++) index[r] = load(bits + (r * all_words + c) * ROWS);
        const float *table = tables + c * GROUPS * TABLE;
        const long count = std::min(GROUPS, groups - c * GROUPS);
#pragma GCC unroll 8
        for (long g = 0; g < count; g++) {
            for (int s = 0; s < S; s++)
                for (int r = 0; r < R; r++)
                    sums[r][s] = add(sums[r][s], lookup(table + (s * PANEL * GROUPS + g) * TABLE, index[r]));
            for (int r = 0; r < R; r++) index[r] = next(index[r]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++) {
            float lanes[ROWS], *to = out + s * stride + r * ROWS;
            store(lanes, sums[r][s]);
            const long count = std::min(ROWS, rows - r * ROWS);
            for (long k = 0; k < count; k++) to[k] += post ? post[r * ROWS + k] * lanes[k] : lanes[k];
        }
}

// Adds W x to the outputs of S samples, for the blocks of rows from b0 to b1
template <int S>
static void add_products(const Codes &W, long b0, long b1, const float *x, float *out) {
    const int R = S == 1 ? R_ONE : R_MANY;
    const long all = words(W.n), rows = W.rows;
    alignas(64) float tables[S * PANEL * GROUPS * TABLE];
    for (long p = 0; p < W.planes; p++)
        for (long c = 0; c < all; c += PANEL) {
            const long first = 32 * c, inputs = std::min(32 * PANEL, W.n - first), groups = (inputs + K - 1) / K;
            for (int s = 0; s < S; s++) {
                float values[32 * PANEL + K] = {0};
                for (long j = 0; j < inputs; j++)
                    values[j] = x[s * W.n + first + j] * (W.pre ? W.pre[p * W.n + first + j] : 1);
                for (long g = 0; g < groups; g++) fill(values + K * g, tables + (s * PANEL * GROUPS + g) * TABLE);
            }
            const uint32_t *bits = W.bits + (p * blocks(rows) * all + c) * ROWS;
            const float *post = W.post ? W.post + p * rows : nullptr;
            long b = b0;
            for (; b + R <= b1; b += R)
                add_blocks<R, S>(bits + b * all * ROWS, all, groups, tables, post ? post + b * ROWS : post, rows - b * ROWS,
                                 out + b * ROWS, rows);
            for (; b < b1; b++)
                add_blocks<1, S>(bits + b * all * ROWS, all, groups, tables, post ? post + b * ROWS : post, rows - b * ROWS,
                                 out + b * ROWS, rows);
        }
}

// out = start + W x for N samples: x (N, n), out and start (N, rows); start may be null, for 0. Called by all threads of a
// team, which share the work and wait for each other. No sum depends on the number of threads or of samples.
static void multiply(const Codes &W, const float *x, long N, const float *start, float *out, long threads) {
    const long teams = (N + S_MANY - 1) / S_MANY, all = blocks(W.rows);
    const long parts = std::max(1L, std::min(all, (threads + teams - 1) / teams));  // of the rows
#pragma omp for schedule(static) collapse(2)
    for (long team = 0; team < teams; team++)
        for (long part = 0; part < parts; part++) {
            const long b0 = part * all / parts, b1 = (part + 1) * all / parts, last = std::min(N, (team + 1) * S_MANY);
            const long from = b0 * ROWS, to = std::min(W.rows, b1 * ROWS);
            long s = team * S_MANY;
            for (long k = s; k < last; k++)
                for (long r = from; r < to; r++) out[k * W.rows + r] = start ? start[k * W.rows + r] : 0;
            if (last - s == S_MANY)
                add_products<S_MANY>(W, b0, b1, x + s * W.n, out + s * W.rows);
            else
                for (; s < last; s++) add_products<1>(W, b0, b1, x + s * W.n, out + s * W.rows);
        }
}

// out = W e, the column of W that a one-hot vector picks, for N symbols from 0 to n - 1
static void pick(const Codes &W, const int64_t *symbols, long N, float *out) {
    const long all = words(W.n);
    for (long s = 0; s < N; s++) {
        const long c = symbols[s] / 32, j = symbols[s] % 32;
        for (long r = 0; r < W.rows; r++) {
            float sum = 0;
            for (long p = 0; p < W.planes; p++) {
                const uint32_t word = W.bits[((p * blocks(W.rows) + r / ROWS) * all + c) * ROWS + r % ROWS];
                const float magnitude = W.post ? W.post[p * W.rows + r] : 1;
                sum += word >> j & 1 ? magnitude : -magnitude;
            }
            out[s * W.rows + r] = sum;
        }
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
