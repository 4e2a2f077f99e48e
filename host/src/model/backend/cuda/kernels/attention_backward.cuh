// The gradients of attention in training, from its log sums. Weights are formed again; one kernel
// goes along the queries and one along the keys, so that each gradient has one block that adds it up.

// deltas[row, head] = the sum of dy * y: one warp each.
template <typename T>
__device__ void deltas_of(const T *dy, const T *y, int count, int head_dim, float *deltas) {
    int at = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (at >= count) return;
    float sum = 0;
    for (int d = threadIdx.x % 32; d < head_dim; d += 32)
        sum = fmaf((float)dy[(size_t)at * head_dim + d], (float)y[(size_t)at * head_dim + d], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) deltas[at] = sum;
}

KERNEL attention_deltas(const float *dy, const float *y, int count, int head_dim, float *deltas) {
    deltas_of(dy, y, count, head_dim, deltas);
}

struct Saved {
    const float *dy, *queries, *keys, *values, *log_sums, *deltas;
};

// What a weight and the gradient of its score come to.
struct Weight {
    float weight, gradient;
};

__device__ __forceinline__ Weight weigh(const float *q, const float *dy, const float *k, const float *v, int head_dim,
                                        bool seen, float scale, float log_sum, float delta) {
    float score = 0, dweight = 0;
    for (int d = 0; d < head_dim; d++) {
        score = fmaf(q[d], k[d], score);
        dweight = fmaf(dy[d], v[d], dweight);
    }
    if (!seen) return Weight{0, 0};
    float weight = expf(score * scale - log_sum);
    return Weight{weight, weight * (dweight - delta) * scale};
}

__host__ __device__ inline size_t queries_room(int vectors, int head_dim) {
    return (size_t)vectors * (3 * head_dim + TILE) + TILE * 2 * (head_dim + 1);
}

// dqueries; grid [sections, kv_heads], as in `attention`.
KERNEL attention_dqueries(Saved saved, const Section *sections, Shape shape, float *dqueries) {
    Section task = sections[blockIdx.x];
    int kv_head = blockIdx.y, head_dim = shape.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int group = shape.heads / shape.kv_heads, vectors = task.rows * group, stride = head_dim + 1;
    float *q = dynamic, *dy = q + vectors * head_dim, *total = dy + vectors * head_dim;
    float *scores = total + vectors * head_dim, *k = scores + vectors * TILE, *v = k + TILE * stride;
    auto place = [&](int vector) {
        return (size_t)(task.first_row + vector / group) * shape.heads + kv_head * group + vector % group;
    };
    for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
        size_t at = place(i / head_dim) * head_dim + i % head_dim;
        q[i] = saved.queries[at], dy[i] = saved.dy[at], total[i] = 0;
    }
    int to = task.position + task.rows;
    Flat source{saved.keys, saved.values, task, shape.kv_heads, kv_head, head_dim};
    for (int start = first_seen(task.position, shape.window) / TILE * TILE; start < to; start += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
            int j = i / head_dim, d = i % head_dim;
            bool there = start + j < to;
            k[j * stride + d] = there ? source.key(start + j)[d] : 0;
            v[j * stride + d] = there ? source.value(start + j)[d] : 0;
        }
        __syncthreads();
        for (int vector = warp; vector < vectors; vector += THREADS / 32) {
            int position = task.position + vector / group, key = start + lane;
            bool seen = key <= position && key >= first_seen(position, shape.window);
            Weight weight = weigh(q + vector * head_dim, dy + vector * head_dim, k + lane * stride, v + lane * stride,
                                  head_dim, seen, shape.scale, saved.log_sums[place(vector)],
                                  saved.deltas[place(vector)]);
            scores[vector * TILE + lane] = weight.gradient;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
            int vector = i / head_dim, d = i % head_dim;
            float part = total[i];
            for (int j = 0; j < TILE; j++) part = fmaf(scores[vector * TILE + j], k[j * stride + d], part);
            total[i] = part;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS)
        dqueries[place(i / head_dim) * head_dim + i % head_dim] = total[i];
}

__host__ __device__ inline size_t keys_room(int head_dim) {
    return (size_t)TILE * (2 * (head_dim + 1) + 4 * head_dim + 2 * TILE);
}

// Rows in a row that see keys of a tile, but none from the position `seen` on.
struct Seeing {
    int first_row, rows, position, seen;
    // How many rows see one of the keys before `end`.
    __device__ int count(int end, int window) const {
        return window ? min(rows, end - 1 + window - position) : rows;
    }
};

// Some keys of one segment, and what sees them: rows of its own segment, then those of others that branch off it.
struct Tile {
    int first_row, rows, position, first_seeing, count;
    // All that see lie behind the last tile.
    __device__ const Seeing *seeing(const Tile *tiles) const {
        return reinterpret_cast<const Seeing *>(tiles + gridDim.x) + first_seeing;
    }
};

// dkeys and dvalues; grid [tiles, kv_heads].
KERNEL attention_dkeys(Saved saved, const Tile *tiles, Shape shape, float *dkeys, float *dvalues) {
    Tile tile = tiles[blockIdx.x];
    int kv_head = blockIdx.y, head_dim = shape.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int group = shape.heads / shape.kv_heads, stride = head_dim + 1;
    float *k = dynamic, *v = k + TILE * stride, *dk = v + TILE * stride, *dv = dk + TILE * head_dim;
    float *q = dv + TILE * head_dim, *dy = q + TILE * head_dim, *weights = dy + TILE * head_dim;
    float *gradients = weights + TILE * TILE;
    for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
        int j = i / head_dim, d = i % head_dim;
        size_t at = ((size_t)(tile.first_row + j) * shape.kv_heads + kv_head) * head_dim + d;
        bool there = j < tile.rows;
        k[j * stride + d] = there ? saved.keys[at] : 0;
        v[j * stride + d] = there ? saved.values[at] : 0;
        dk[i] = dv[i] = 0;
    }
    for (int nth = 0; nth < tile.count; nth++) {
        Seeing those = tile.seeing(tiles)[nth];
        int count = those.count(tile.position + tile.rows, shape.window);
        for (int first = 0; first < count; first += TILE) {
            int rows = min(TILE, count - first);
            for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
                auto place = [&](int r) { return (size_t)(those.first_row + first + r) * shape.heads + head; };
                __syncthreads();
                for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
                    int r = i / head_dim;
                    size_t at = place(r) * head_dim + i % head_dim;
                    q[i] = r < rows ? saved.queries[at] : 0;
                    dy[i] = r < rows ? saved.dy[at] : 0;
                }
                __syncthreads();
                for (int r = warp; r < TILE; r += THREADS / 32) {
                    int position = those.position + first + r, key = tile.position + lane;
                    bool seen = r < rows && lane < tile.rows && key < those.seen && key <= position &&
                                key >= first_seen(position, shape.window);
                    size_t at = place(r < rows ? r : 0);
                    Weight weight = weigh(q + r * head_dim, dy + r * head_dim, k + lane * stride, v + lane * stride,
                                          head_dim, seen, shape.scale, saved.log_sums[at], saved.deltas[at]);
                    weights[r * TILE + lane] = weight.weight;
                    gradients[r * TILE + lane] = weight.gradient;
                }
                __syncthreads();
                for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
                    int j = i / head_dim, d = i % head_dim;
                    float a = dk[i], b = dv[i];
                    for (int r = 0; r < TILE; r++) {
                        a = fmaf(gradients[r * TILE + j], q[r * head_dim + d], a);
                        b = fmaf(weights[r * TILE + j], dy[r * head_dim + d], b);
                    }
                    dk[i] = a, dv[i] = b;
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tile.rows * head_dim; i += THREADS) {
        size_t at = ((size_t)(tile.first_row + i / head_dim) * shape.kv_heads + kv_head) * head_dim + i % head_dim;
        dkeys[at] = dk[i], dvalues[at] = dv[i];
    }
}
