// Attention in training where weights are bf16: queries, keys and values are rounded to bf16 for the
// tensor cores, sums and softmax are f32. A block has 4 warps; vectors are rows with each query head
// of one key and value head.

// Vectors of a block, and keys that are taken together.
constexpr int BLOCK = 64;
// Vectors that are taken together for the gradients of keys.
constexpr int PART = 32;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

__device__ __forceinline__ uint32_t pack(float low, float high) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}

// c[16, 8 * N] += a · bᵀ over D: `a` are 16 rows, `b` 8 * N rows, both of D numbers.
template <int D, int N> __device__ __forceinline__ void rows_by_rows(float (&c)[N][4], const Half *a, const Half *b) {
    constexpr int STRIDE = D + 8;
    int lane = threadIdx.x % 32;
    a += (lane % 16) * STRIDE + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t left[4];
        load_four(left, a + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            load_four(right, b + n * 8 * STRIDE + k);
            multiply(c[n], left, right[0], right[1]);
            multiply(c[n + 1], left, right[2], right[3]);
        }
    }
}

// c[16, D] += p[16, 8 * N] · b, with `b` of 8 * N rows of D numbers.
template <int D, int N>
__device__ __forceinline__ void weights_by_rows(float (&c)[D / 8][4], const float (&p)[N][4], const Half *b) {
    constexpr int STRIDE = D + 8;
    int lane = threadIdx.x % 32;
    b += (lane % 16) * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        uint32_t left[4] = {pack(p[k][0], p[k][1]), pack(p[k][2], p[k][3]), pack(p[k + 1][0], p[k + 1][1]),
                            pack(p[k + 1][2], p[k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t right[4];
            load_four_turned(right, b + k * 8 * STRIDE + n * 8);
            multiply(c[n], left, right[0], right[1]);
            multiply(c[n + 1], left, right[2], right[3]);
        }
    }
}

// Rounds `rows` rows of D numbers into shared memory; `from(row)` is where one begins, or null for zeros.
template <int D, typename From> __device__ __forceinline__ void round_rows(Half *to, int rows, From from) {
    constexpr int STRIDE = D + 8, EACH = D / 4;
    for (int i = threadIdx.x; i < rows * EACH; i += THREADS) {
        int row = i / EACH, d = i % EACH * 4;
        const float *x = from(row);
        float4 four = x ? *reinterpret_cast<const float4 *>(x + d) : make_float4(0, 0, 0, 0);
        uint2 rounded = make_uint2(pack(four.x, four.y), pack(four.z, four.w));
        *reinterpret_cast<uint2 *>(to + row * STRIDE + d) = rounded;
    }
}

// Where vector `v` of a task lies among rows and heads.
struct Vectors {
    int first_row, position, group, heads, first_head, count;
    __device__ Vectors(Task task, Shape shape, int kv_head)
        : first_row(task.first_row), position(task.position), group(shape.heads / shape.kv_heads), heads(shape.heads),
          first_head(kv_head * group), count(task.rows * group) {}
    __device__ size_t at(int v) const { return (size_t)(first_row + v / group) * heads + first_head + v % group; }
    __device__ int position_of(int v) const { return v < count ? position + v / group : -1; }
};

__device__ __forceinline__ bool sees(int position, int key, int window) {
    return key <= position && key >= first_seen(position, window);
}

template <int D>
__device__ void attention_bf16(const float *queries, const float *keys, const float *values, const Task *tasks,
                               Shape shape, float *y, float *log_sums) {
    constexpr int STRIDE = D + 8, N = BLOCK / 8;
    Task task = tasks[blockIdx.x];
    int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Vectors vectors(task, shape, kv_head);
    Half *q = reinterpret_cast<Half *>(dynamic), *k = q + BLOCK * STRIDE, *v = k + BLOCK * STRIDE;
    size_t offset = (size_t)task.pages * shape.kv_heads * D;
    Flat source{keys + offset, values + offset, shape.kv_heads, kv_head, D};
    round_rows<D>(q, BLOCK, [&](int i) { return i < vectors.count ? queries + vectors.at(i) * D : nullptr; });
    int own[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    int position[2] = {vectors.position_of(own[0]), vectors.position_of(own[1])};
    float total[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    float scale = shape.scale * LOG2E;
    int end = task.position + task.rows;
    for (int start = first_seen(task.position, shape.window) / BLOCK * BLOCK; start < end; start += BLOCK) {
        __syncthreads();
        round_rows<D>(k, BLOCK, [&](int j) { return start + j < end ? source.key(start + j) : nullptr; });
        round_rows<D>(v, BLOCK, [&](int j) { return start + j < end ? source.value(start + j) : nullptr; });
        __syncthreads();
        float scores[N][4] = {};
        rows_by_rows<D, N>(scores, q + warp * 16 * STRIDE, k);
        float now[2] = {max[0], max[1]};
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = start + n * 8 + lane % 4 * 2 + i % 2;
                scores[n][i] = sees(position[i / 2], key, shape.window) ? scores[n][i] * scale : -INFINITY;
                now[i / 2] = fmaxf(now[i / 2], scores[n][i]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffff, now[r], 1));
            now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffff, now[r], 2));
            float shrink = max[r] == now[r] ? 1.0f : exp2f(max[r] - now[r]);
            max[r] = now[r];
            sum[r] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) total[n][2 * r] *= shrink, total[n][2 * r + 1] *= shrink;
            float from = now[r] == -INFINITY ? 0 : now[r];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    scores[n][i] = exp2f(scores[n][i] - from);
                    sum[r] += scores[n][i];
                }
        }
        weights_by_rows<D, N>(total, scores, v);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 2);
        if (own[r] >= vectors.count) continue;
        size_t at = vectors.at(own[r]);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            float2 two = make_float2(total[n][2 * r] / sum[r], total[n][2 * r + 1] / sum[r]);
            *reinterpret_cast<float2 *>(y + at * D + n * 8 + lane % 4 * 2) = two;
        }
        if (lane % 4 == 0) log_sums[at] = max[r] * LN2 + logf(sum[r]);
    }
}

template <int D>
__device__ void attention_dqueries_bf16(Saved saved, const Task *tasks, Shape shape, float *dqueries) {
    constexpr int STRIDE = D + 8, N = PART / 8;
    Task task = tasks[blockIdx.x];
    int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Vectors vectors(task, shape, kv_head);
    Half *q = reinterpret_cast<Half *>(dynamic), *dy = q + BLOCK * STRIDE, *k = dy + BLOCK * STRIDE;
    Half *v = k + BLOCK * STRIDE;
    size_t offset = (size_t)task.pages * shape.kv_heads * D;
    Flat source{saved.keys + offset, saved.values + offset, shape.kv_heads, kv_head, D};
    round_rows<D>(q, BLOCK, [&](int i) { return i < vectors.count ? saved.queries + vectors.at(i) * D : nullptr; });
    round_rows<D>(dy, BLOCK, [&](int i) { return i < vectors.count ? saved.dy + vectors.at(i) * D : nullptr; });
    int own[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8}, position[2];
    float log_sum[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        position[r] = vectors.position_of(own[r]);
        log_sum[r] = own[r] < vectors.count ? saved.log_sums[vectors.at(own[r])] * LOG2E : 0;
        delta[r] = own[r] < vectors.count ? saved.deltas[vectors.at(own[r])] : 0;
    }
    float total[D / 8][4] = {};
    int end = task.position + task.rows;
    for (int start = first_seen(task.position, shape.window) / BLOCK * BLOCK; start < end; start += BLOCK) {
        __syncthreads();
        round_rows<D>(k, BLOCK, [&](int j) { return start + j < end ? source.key(start + j) : nullptr; });
        round_rows<D>(v, BLOCK, [&](int j) { return start + j < end ? source.value(start + j) : nullptr; });
        __syncthreads();
#pragma unroll
        for (int half = 0; half < BLOCK; half += PART) {
            float scores[N][4] = {}, dweights[N][4] = {};
            rows_by_rows<D, N>(scores, q + warp * 16 * STRIDE, k + half * STRIDE);
            rows_by_rows<D, N>(dweights, dy + warp * 16 * STRIDE, v + half * STRIDE);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = start + half + n * 8 + lane % 4 * 2 + i % 2, r = i / 2;
                    float weight = exp2f(scores[n][i] * shape.scale * LOG2E - log_sum[r]);
                    bool seen = sees(position[r], key, shape.window);
                    scores[n][i] = seen ? weight * (dweights[n][i] - delta[r]) * shape.scale : 0;
                }
            weights_by_rows<D, N>(total, scores, k + half * STRIDE);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (own[r] >= vectors.count) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            float2 two = make_float2(total[n][2 * r], total[n][2 * r + 1]);
            *reinterpret_cast<float2 *>(dqueries + vectors.at(own[r]) * D + n * 8 + lane % 4 * 2) = two;
        }
    }
}

// A tile of keys is as in `attention_dkeys`, of BLOCK keys.
template <int D>
__device__ void attention_dkeys_bf16(Saved saved, const Task *tiles, Shape shape, float *dkeys, float *dvalues) {
    constexpr int STRIDE = D + 8, N = PART / 8;
    Task tile = tiles[blockIdx.x];
    int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Half *k = reinterpret_cast<Half *>(dynamic), *v = k + BLOCK * STRIDE, *q = v + BLOCK * STRIDE;
    Half *dy = q + PART * STRIDE;
    float *log_sums = reinterpret_cast<float *>(dy + PART * STRIDE), *deltas = log_sums + PART;
    int *positions = reinterpret_cast<int *>(deltas + PART);
    auto place = [&](int j) { return ((size_t)(tile.first_row + j) * shape.kv_heads + kv_head) * D; };
    round_rows<D>(k, BLOCK, [&](int j) { return j < tile.rows ? saved.keys + place(j) : nullptr; });
    round_rows<D>(v, BLOCK, [&](int j) { return j < tile.rows ? saved.values + place(j) : nullptr; });
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    int end = tile.pages;
    if (shape.window) end = min(end, (int)(tile.first_row + tile.rows - 1) + shape.window);
    // The rows from the first key's on are the vectors.
    Vectors vectors(Task{tile.first_row, (uint32_t)end - tile.first_row, tile.position, 0}, shape, kv_head);
    for (int first = 0; first < vectors.count; first += PART) {
        __syncthreads();
        auto from = [&](const float *x, int i) {
            return first + i < vectors.count ? x + vectors.at(first + i) * D : nullptr;
        };
        round_rows<D>(q, PART, [&](int i) { return from(saved.queries, i); });
        round_rows<D>(dy, PART, [&](int i) { return from(saved.dy, i); });
        if (threadIdx.x < PART) {
            int i = first + threadIdx.x;
            bool there = i < vectors.count;
            log_sums[threadIdx.x] = there ? saved.log_sums[vectors.at(i)] * LOG2E : 0;
            deltas[threadIdx.x] = there ? saved.deltas[vectors.at(i)] : 0;
            positions[threadIdx.x] = vectors.position_of(i);
        }
        __syncthreads();
        float weights[N][4] = {}, gradients[N][4] = {};
        rows_by_rows<D, N>(weights, k + warp * 16 * STRIDE, q);
        rows_by_rows<D, N>(gradients, v + warp * 16 * STRIDE, dy);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = n * 8 + lane % 4 * 2 + i % 2, key = tile.position + warp * 16 + lane / 4 + i / 2 * 8;
                bool seen = sees(positions[column], key, shape.window);
                float weight = seen ? exp2f(weights[n][i] * shape.scale * LOG2E - log_sums[column]) : 0;
                weights[n][i] = weight;
                gradients[n][i] = seen ? weight * (gradients[n][i] - deltas[column]) * shape.scale : 0;
            }
        weights_by_rows<D, N>(dv, weights, dy);
        weights_by_rows<D, N>(dk, gradients, q);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int j = warp * 16 + lane / 4 + r * 8;
        if (j >= tile.rows) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            size_t at = place(j) + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2 *>(dkeys + at) = make_float2(dk[n][2 * r], dk[n][2 * r + 1]);
            *reinterpret_cast<float2 *>(dvalues + at) = make_float2(dv[n][2 * r], dv[n][2 * r + 1]);
        }
    }
}

#define BF16_KERNELS(D) \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_bf16_##D(const float *queries, const float *keys, const float *values, const Task *tasks,        \
                              Shape shape, float *y, float *log_sums) {                                               \
        attention_bf16<D>(queries, keys, values, tasks, shape, y, log_sums);                                          \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_dqueries_bf16_##D(Saved saved, const Task *tasks, Shape shape, float *dqueries) {                \
        attention_dqueries_bf16<D>(saved, tasks, shape, dqueries);                                                    \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_dkeys_bf16_##D(Saved saved, const Task *tiles, Shape shape, float *dkeys, float *dvalues) {      \
        attention_dkeys_bf16<D>(saved, tiles, shape, dkeys, dvalues);                                                 \
    }

BF16_KERNELS(64)
BF16_KERNELS(128)
