// Attention in training where operands are kept in bf16: products are of the tensor cores, sums and softmax are f32. A
// block has 4 warps; vectors are rows with each query head of one key and value head.

// Keys that are taken together, and those of a block that has keys.
constexpr int BLOCK = 64;
// A block that has vectors has WIDE * BLOCK of them: a warp has WIDE times 16, so that what it reads of a key is used
// for as many.
constexpr int WIDE = 2;
// Keys whose scores a warp holds at a time.
constexpr int PART = 32;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// c[16 * M, 8 * N] += a · bᵀ over D: `a` are 16 * M rows, `b` 8 * N rows, both of D numbers.
template <int D, int M, int N>
__device__ __forceinline__ void rows_by_rows(float (&c)[M][N][4], const Half *a, const Half *b) {
    constexpr int STRIDE = D + 8;
    int lane = threadIdx.x % 32;
    a += (lane % 16) * STRIDE + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_four(left[m], a + m * 16 * STRIDE + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            load_four(right, b + n * 8 * STRIDE + k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(c[m][n], left[m], right[0], right[1]);
                multiply(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// c[16 * M, D] += p[16 * M, 8 * N] · b, with `b` of 8 * N rows of D numbers.
template <int D, int M, int N>
__device__ __forceinline__ void weights_by_rows(float (&c)[M][D / 8][4], const float (&p)[M][N][4], const Half *b) {
    constexpr int STRIDE = D + 8;
    int lane = threadIdx.x % 32;
    b += (lane % 16) * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            left[m][0] = pack(p[m][k][0], p[m][k][1]), left[m][1] = pack(p[m][k][2], p[m][k][3]);
            left[m][2] = pack(p[m][k + 1][0], p[m][k + 1][1]), left[m][3] = pack(p[m][k + 1][2], p[m][k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t right[4];
            load_four_turned(right, b + k * 8 * STRIDE + n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(c[m][n], left[m], right[0], right[1]);
                multiply(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// Copies `rows` rows of D numbers into shared memory; `from(row)` is where one begins, or null for zeros. They are
// there after `wait_for_copies` and a barrier.
template <int D, typename From> __device__ __forceinline__ void copy_rows(Half *to, const Half *some, int rows, From from) {
    constexpr int STRIDE = D + 8, EACH = D / 8;
    for (int i = threadIdx.x; i < rows * EACH; i += THREADS) {
        int row = i / EACH, d = i % EACH * 8;
        const Half *x = from(row);
        copy_ahead(to + row * STRIDE + d, x ? x + d : some, x != nullptr);
    }
}

// Where keys and values of a head lie in a training pass.
struct Rows {
    const Half *keys, *values; // [rows, kv_heads, D], of the pass
    Positions positions;
    size_t step, first;
    __device__ Rows(const Half *keys, const Half *values, Section section, Shape shape, int kv_head, int d)
        : keys(keys), values(values), positions(section), step((size_t)shape.kv_heads * d), first((size_t)kv_head * d) {}
    // Copies those of BLOCK positions into shared memory, zeros from `end` on; as `copy_rows`.
    template <int D> __device__ __forceinline__ void copy(Half *k, Half *v, int start, int end) const {
        constexpr int STRIDE = D + 8, EACH = D / 8;
#pragma unroll 2
        for (int i = threadIdx.x; i < BLOCK * EACH; i += THREADS) {
            int j = i / EACH, d = i % EACH * 8;
            bool there = start + j < end;
            size_t at = there ? first + positions.row(start + j) * step + d : 0;
            copy_ahead(k + j * STRIDE + d, keys + at, there);
            copy_ahead(v + j * STRIDE + d, values + at, there);
        }
    }
};

struct SavedOperands {
    const Half *dy, *queries, *keys, *values;
    const float *log_sums, *deltas;
};

// Where vector `v` of a task lies among rows and heads.
struct Vectors {
    int first_row, position, group, heads, first_head, count;
    __device__ Vectors(Section task, Shape shape, int kv_head)
        : first_row(task.first_row), position(task.position), group(shape.heads / shape.kv_heads), heads(shape.heads),
          first_head(kv_head * group), count(task.rows * group) {}
    __device__ size_t at(int v) const { return (size_t)(first_row + v / group) * heads + first_head + v % group; }
    __device__ int position_of(int v) const { return v < count ? position + v / group : -1; }
};

__device__ __forceinline__ bool sees(int position, int key, int window) {
    return key <= position && key >= first_seen(position, window);
}

// Of each 16 vectors of a warp a lane has two: this is number `r` of the `m`-th 16.
__device__ __forceinline__ int own(int m, int r) {
    return (threadIdx.x / 32 * WIDE + m) * 16 + r * 8 + threadIdx.x % 32 / 4;
}

template <int D>
__device__ void attention_bf16(const Half *queries, const Half *keys, const Half *values, const Section *sections,
                               Shape shape, Half *y, float *log_sums) {
    constexpr int STRIDE = D + 8, N = PART / 8, STAGE = 2 * BLOCK * STRIDE;
    Section task = sections[blockIdx.x];
    int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Vectors vectors(task, shape, kv_head);
    Half *q = reinterpret_cast<Half *>(dynamic), *stages = q + WIDE * BLOCK * STRIDE;
    Rows source(keys, values, task, shape, kv_head, D);
    int end = task.position + task.rows, begin = first_seen(task.position, shape.window) / BLOCK * BLOCK;
    auto fetch = [&](int start) {
        Half *k = stages + start / BLOCK % 2 * STAGE;
        if (start < end) source.copy<D>(k, k + BLOCK * STRIDE, start, end);
        end_copies();
    };
    copy_rows<D>(q, queries, WIDE * BLOCK,
                 [&](int i) { return i < vectors.count ? queries + vectors.at(i) * D : nullptr; });
    fetch(begin);
    float total[WIDE][D / 8][4] = {}, max[WIDE][2], sum[WIDE][2] = {};
#pragma unroll
    for (int m = 0; m < WIDE; m++) max[m][0] = max[m][1] = -INFINITY;
    int position[WIDE][2] = {{vectors.position_of(own(0, 0)), vectors.position_of(own(0, 1))},
                             {vectors.position_of(own(1, 0)), vectors.position_of(own(1, 1))}};
    float scale = shape.scale * LOG2E;
    for (int start = begin; start < end; start += BLOCK) {
        fetch(start + BLOCK);
        wait_for_copies<1>();
        __syncthreads();
        const Half *k = stages + start / BLOCK % 2 * STAGE;
#pragma unroll 1
        for (int half = 0; half < BLOCK; half += PART) {
            float scores[WIDE][N][4] = {};
            rows_by_rows<D>(scores, q + warp * WIDE * 16 * STRIDE, k + half * STRIDE);
#pragma unroll
            for (int m = 0; m < WIDE; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float now = max[m][r];
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int i = 2 * r; i < 2 * r + 2; i++) {
                            int key = start + half + n * 8 + lane % 4 * 2 + i % 2;
                            bool seen = sees(position[m][r], key, shape.window);
                            scores[m][n][i] = seen ? scores[m][n][i] * scale : -INFINITY;
                            now = fmaxf(now, scores[m][n][i]);
                        }
                    now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 1));
                    now = fmaxf(now, __shfl_xor_sync(0xffffffff, now, 2));
                    if (max[m][r] != now) {
                        float shrink = exp2f(max[m][r] - now);
                        max[m][r] = now;
                        sum[m][r] *= shrink;
#pragma unroll
                        for (int n = 0; n < D / 8; n++) total[m][n][2 * r] *= shrink, total[m][n][2 * r + 1] *= shrink;
                    }
                    float from = now == -INFINITY ? 0 : now;
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int i = 2 * r; i < 2 * r + 2; i++) {
                            scores[m][n][i] = exp2f(scores[m][n][i] - from);
                            sum[m][r] += scores[m][n][i];
                        }
                }
            weights_by_rows<D>(total, scores, k + (BLOCK + half) * STRIDE);
        }
        // Before the next tile but one takes its place.
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < WIDE; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[m][r] += __shfl_xor_sync(0xffffffff, sum[m][r], 1);
            sum[m][r] += __shfl_xor_sync(0xffffffff, sum[m][r], 2);
            if (own(m, r) >= vectors.count) continue;
            size_t at = vectors.at(own(m, r));
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                uint32_t two = pack(total[m][n][2 * r] / sum[m][r], total[m][n][2 * r + 1] / sum[m][r]);
                *reinterpret_cast<uint32_t *>(y + at * D + n * 8 + lane % 4 * 2) = two;
            }
            if (lane % 4 == 0) log_sums[at] = max[m][r] * LN2 + logf(sum[m][r]);
        }
}

template <int D>
__device__ void attention_dqueries_bf16(SavedOperands saved, const Section *sections, Shape shape, Half *dqueries) {
    constexpr int STRIDE = D + 8, N = PART / 8;
    Section task = sections[blockIdx.x];
    int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Vectors vectors(task, shape, kv_head);
    Half *q = reinterpret_cast<Half *>(dynamic), *dy = q + WIDE * BLOCK * STRIDE, *k = dy + WIDE * BLOCK * STRIDE;
    Half *v = k + BLOCK * STRIDE;
    Rows source(saved.keys, saved.values, task, shape, kv_head, D);
    auto own_rows = [&](const Half *x) {
        return [=](int i) { return i < vectors.count ? x + vectors.at(i) * D : nullptr; };
    };
    copy_rows<D>(q, saved.queries, WIDE * BLOCK, own_rows(saved.queries));
    copy_rows<D>(dy, saved.dy, WIDE * BLOCK, own_rows(saved.dy));
    float log_sum[WIDE][2], delta[WIDE][2];
#pragma unroll
    for (int m = 0; m < WIDE; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            log_sum[m][r] = own(m, r) < vectors.count ? saved.log_sums[vectors.at(own(m, r))] * LOG2E : 0;
            delta[m][r] = own(m, r) < vectors.count ? saved.deltas[vectors.at(own(m, r))] : 0;
        }
    float total[WIDE][D / 8][4] = {};
    int position[WIDE][2] = {{vectors.position_of(own(0, 0)), vectors.position_of(own(0, 1))},
                             {vectors.position_of(own(1, 0)), vectors.position_of(own(1, 1))}};
    int end = task.position + task.rows;
    for (int start = first_seen(task.position, shape.window) / BLOCK * BLOCK; start < end; start += BLOCK) {
        __syncthreads();
        source.copy<D>(k, v, start, end);
        end_copies();
        wait_for_copies<0>();
        __syncthreads();
#pragma unroll
        for (int half = 0; half < BLOCK; half += PART) {
            float scores[WIDE][N][4] = {}, dweights[WIDE][N][4] = {};
            rows_by_rows<D>(scores, q + warp * WIDE * 16 * STRIDE, k + half * STRIDE);
            rows_by_rows<D>(dweights, dy + warp * WIDE * 16 * STRIDE, v + half * STRIDE);
#pragma unroll
            for (int m = 0; m < WIDE; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int key = start + half + n * 8 + lane % 4 * 2 + i % 2, r = i / 2;
                        float weight = exp2f(scores[m][n][i] * shape.scale * LOG2E - log_sum[m][r]);
                        bool seen = sees(position[m][r], key, shape.window);
                        scores[m][n][i] = seen ? weight * (dweights[m][n][i] - delta[m][r]) * shape.scale : 0;
                    }
            weights_by_rows<D>(total, scores, k + half * STRIDE);
        }
    }
#pragma unroll
    for (int m = 0; m < WIDE; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (own(m, r) >= vectors.count) continue;
            size_t at = vectors.at(own(m, r)) * D;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                uint32_t two = pack(total[m][n][2 * r], total[m][n][2 * r + 1]);
                *reinterpret_cast<uint32_t *>(dqueries + at + n * 8 + lane % 4 * 2) = two;
            }
        }
}

// c[16 * M, 8 * N] += a · b over K, where `a` are rows of K numbers and `b` K rows, of which 8 * N numbers are taken.
template <int K, int OF_A, int OF_B, int M, int N>
__device__ __forceinline__ void rows_by_columns(float (&c)[M][N][4], const Half *a, const Half *b) {
    int lane = threadIdx.x % 32;
    a += (lane % 16) * OF_A + lane / 16 * 8;
    b += (lane % 16) * OF_B + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) load_four(left[m], a + m * 16 * OF_A + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            load_four_turned(right, b + k * OF_B + n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply(c[m][n], left[m], right[0], right[1]);
                multiply(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

// A tile of keys is as in `attention_dkeys`, of BLOCK keys; grid [tiles, kv_heads, heads of a group]. Each block has the
// rows of one query head, BLOCK at a time. Where a group has several, `parts` gets what each comes to, [2, group, rows,
// kv_heads, D]: keys, then values.
//
// Weights and their gradients are left in shared memory: so a warp has half of the keys with half of the rows, and then
// with half of the numbers of a key, and reads less of either than with a quarter of the keys and all of the others.
template <int D>
__device__ void attention_dkeys_bf16(SavedOperands saved, const Tile *tiles, Shape shape, int rows, float *parts,
                                     Half *dkeys, Half *dvalues) {
    constexpr int STRIDE = D + 8, ACROSS = BLOCK + 8, HALF = BLOCK / 2, M = HALF / 16, N = HALF / 8;
    Tile tile = tiles[blockIdx.x];
    int kv_head = blockIdx.y, group = gridDim.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Half *k = reinterpret_cast<Half *>(dynamic), *v = k + BLOCK * STRIDE, *q = v + BLOCK * STRIDE;
    Half *dy = q + BLOCK * STRIDE, *weights = dy + BLOCK * STRIDE, *dscores = weights + BLOCK * ACROSS;
    float *log_sums = reinterpret_cast<float *>(dscores + BLOCK * ACROSS), *deltas = log_sums + BLOCK;
    auto place = [&](int j) { return ((size_t)(tile.first_row + j) * shape.kv_heads + kv_head) * D; };
    copy_rows<D>(k, saved.keys, BLOCK, [&](int j) { return j < tile.rows ? saved.keys + place(j) : nullptr; });
    copy_rows<D>(v, saved.keys, BLOCK, [&](int j) { return j < tile.rows ? saved.values + place(j) : nullptr; });
    int keys_of = warp / 2 * HALF, rows_of = warp % 2 * HALF, numbers_of = warp % 2 * (D / 2);
    float dk[M][D / 16][4] = {}, dv[M][D / 16][4] = {};
    int head = kv_head * group + blockIdx.z;
    for (int nth = 0; nth < tile.count; nth++) {
        Seeing those = tile.seeing(tiles)[nth];
        int count = those.count(tile.position + tile.rows, shape.window);
        auto at = [&](int row) { return (size_t)(those.first_row + row) * shape.heads + head; };
        for (int first = 0; first < count; first += BLOCK) {
            // Until all have read what was there.
            __syncthreads();
            auto from = [&](const Half *x, int i) { return first + i < count ? x + at(first + i) * D : nullptr; };
            copy_rows<D>(q, saved.keys, BLOCK, [&](int i) { return from(saved.queries, i); });
            copy_rows<D>(dy, saved.keys, BLOCK, [&](int i) { return from(saved.dy, i); });
            end_copies();
            if (threadIdx.x < BLOCK) {
                int i = first + threadIdx.x;
                log_sums[threadIdx.x] = i < count ? saved.log_sums[at(i)] * LOG2E : 0;
                deltas[threadIdx.x] = i < count ? saved.deltas[at(i)] : 0;
            }
            wait_for_copies<0>();
            __syncthreads();
            float scores[M][N][4] = {}, slopes[M][N][4] = {};
            rows_by_rows<D>(scores, k + keys_of * STRIDE, q + rows_of * STRIDE);
            rows_by_rows<D>(slopes, v + keys_of * STRIDE, dy + rows_of * STRIDE);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        int j = keys_of + m * 16 + lane / 4 + r * 8, row = rows_of + n * 8 + lane % 4 * 2;
                        float weight[2], dscore[2];
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            int position = first + row + i < count ? those.position + first + row + i : -1;
                            int key = tile.position + j;
                            bool seen = key < those.seen && sees(position, key, shape.window);
                            float score = scores[m][n][2 * r + i] * shape.scale * LOG2E - log_sums[row + i];
                            weight[i] = seen ? exp2f(score) : 0;
                            dscore[i] = seen ? weight[i] * (slopes[m][n][2 * r + i] - deltas[row + i]) * shape.scale : 0;
                        }
                        *reinterpret_cast<uint32_t *>(weights + j * ACROSS + row) = pack(weight[0], weight[1]);
                        *reinterpret_cast<uint32_t *>(dscores + j * ACROSS + row) = pack(dscore[0], dscore[1]);
                    }
            __syncthreads();
            rows_by_columns<BLOCK, ACROSS, STRIDE>(dv, weights + keys_of * ACROSS, dy + numbers_of);
            rows_by_columns<BLOCK, ACROSS, STRIDE>(dk, dscores + keys_of * ACROSS, q + numbers_of);
        }
    }
    size_t part = (size_t)rows * shape.kv_heads * D;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int j = keys_of + m * 16 + lane / 4 + r * 8;
            if (j >= tile.rows) continue;
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                size_t to = place(j) + numbers_of + n * 8 + lane % 4 * 2;
                float2 of_key = make_float2(dk[m][n][2 * r], dk[m][n][2 * r + 1]);
                float2 of_value = make_float2(dv[m][n][2 * r], dv[m][n][2 * r + 1]);
                if (group == 1) {
                    *reinterpret_cast<uint32_t *>(dkeys + to) = pack(of_key.x, of_key.y);
                    *reinterpret_cast<uint32_t *>(dvalues + to) = pack(of_value.x, of_value.y);
                } else {
                    float *keys = parts + blockIdx.z * part + to, *values = keys + group * part;
                    *reinterpret_cast<float2 *>(keys) = of_key;
                    *reinterpret_cast<float2 *>(values) = of_value;
                }
            }
        }
}

// Adds up what the heads of a group came to, in order, for keys and values; `len` numbers each, four at a time.
KERNEL add_group(const float *parts, int group, size_t len, Half *dkeys, Half *dvalues) {
    EACH(i, 2 * (len / 4)) {
        bool second = i >= len / 4;
        size_t at = second ? i - len / 4 : i;
        const float *from = parts + (second ? group * len : 0);
        float4 sum = four(from, at);
        for (int head = 1; head < group; head++) {
            float4 more = four(from + head * len, at);
            sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
        }
        put_four(second ? dvalues : dkeys, at, sum);
    }
}

#define BF16_KERNELS(D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_bf16_##D(                                          \
        const Half *queries, const Half *keys, const Half *values, const Section *sections, Shape shape, Half *y,      \
        float *log_sums) {                                                                                             \
        attention_bf16<D>(queries, keys, values, sections, shape, y, log_sums);                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_dqueries_bf16_##D(                                 \
        SavedOperands saved, const Section *sections, Shape shape, Half *dqueries) {                                   \
        attention_dqueries_bf16<D>(saved, sections, shape, dqueries);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_dkeys_bf16_##D(                                    \
        SavedOperands saved, const Tile *tiles, Shape shape, int rows, float *parts, Half *dkeys, Half *dvalues) {     \
        attention_dkeys_bf16<D>(saved, tiles, shape, rows, parts, dkeys, dvalues);                                     \
    }

BF16_KERNELS(64)
BF16_KERNELS(128)
