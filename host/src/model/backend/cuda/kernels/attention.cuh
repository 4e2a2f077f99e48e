// Causal attention, forward: over the pages of the cache, and over the rows of a training pass.
//
// A task is a few rows of one segment with all query heads of one key and value head. A row's keys
// are taken in tiles counted from position 0, so what it comes to depends on nothing but itself.

// Keys that are taken together; a multiple of a page.
constexpr int TILE = 32;
// Positions whose sums are formed by one block; a multiple of a tile.
constexpr int CHUNK = 256;
constexpr int PAGE = 16;
constexpr int THREADS = 128;

struct Task {
    uint32_t first_row, rows; // of the pass
    uint32_t position;        // of the first row
    uint32_t pages;           // where the segment's pages begin
};

// A task of a training pass.
struct Section {
    int first_row, rows; // of the pass
    int position;        // of the first row
    int stem, shared;    // positions before `shared` are the rows from `stem` on
};

// Which row of the pass a position is.
struct Positions {
    int shared, stem, own;
    __device__ Positions(Section section)
        : shared(section.shared), stem(section.stem), own(section.first_row - section.position) {}
    __device__ int row(int position) const { return position + (position < shared ? stem : own); }
};

struct Shape {
    int heads, kv_heads, head_dim, window; // 0 is no window
    float scale;
};

// Where the keys and values of one head lie; `T` is f32 or bf16.
template <typename T> struct Paged {
    const T *cache; // of the layer: [page, 2, kv_heads, PAGE, head_dim]
    const uint32_t *pages;
    int kv_heads, kv_head, head_dim;
    __device__ const T *key(int position) const {
        size_t page = pages[position / PAGE];
        return cache + ((page * 2 * kv_heads + kv_head) * PAGE + position % PAGE) * head_dim;
    }
    __device__ const T *value(int position) const {
        return key(position) + (size_t)kv_heads * PAGE * head_dim;
    }
};

struct Flat {
    const float *keys, *values; // [rows, kv_heads, head_dim], of the pass
    Positions positions;
    int kv_heads, kv_head, head_dim;
    __device__ size_t at(int position) const { return ((size_t)positions.row(position) * kv_heads + kv_head) * head_dim; }
    __device__ const float *key(int position) const { return keys + at(position); }
    __device__ const float *value(int position) const { return values + at(position); }
};

__device__ __forceinline__ int first_seen(int position, int window) {
    return window == 0 || position + 1 < window ? 0 : position + 1 - window;
}

// Room in shared memory, in numbers.
__host__ __device__ inline size_t forward_room(int vectors, int head_dim) {
    return (size_t)vectors * (2 * head_dim + TILE + 3) + TILE * (2 * head_dim + 1);
}

// Sums over the positions from `from` to before `to`. Leaves, for each vector (row and head), the
// maximum in `max`, the sum of weights in `sum`, and the weighted sum of values in `total`.
template <typename Source> struct Forward {
    int vectors, head_dim;
    float *q, *total, *max, *sum, *factor, *scores, *k, *v;

    __device__ Forward(float *room, int vectors, int head_dim) : vectors(vectors), head_dim(head_dim) {
        q = room, total = q + vectors * head_dim, max = total + vectors * head_dim, sum = max + vectors;
        factor = sum + vectors, scores = factor + vectors, k = scores + vectors * TILE;
        v = k + TILE * (head_dim + 1);
    }

    __device__ void run(const float *queries, Task task, Shape shape, int kv_head, Source source, int from, int to) {
        int group = shape.heads / shape.kv_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
            int vector = i / head_dim, row = task.first_row + vector / group, head = kv_head * group + vector % group;
            q[i] = queries[((size_t)row * shape.heads + head) * head_dim + i % head_dim];
            total[i] = 0;
        }
        for (int i = threadIdx.x; i < vectors; i += THREADS) max[i] = -INFINITY, sum[i] = 0;
        int last = task.position + task.rows - 1;
        to = min(to, last + 1);
        from = ::max(from, first_seen(task.position, shape.window) / TILE * TILE);
        for (int start = from; start < to; start += TILE) {
            __syncthreads();
            if (head_dim % 4 == 0) {
                int fours = head_dim / 4;
                for (int i = threadIdx.x; i < TILE * fours; i += THREADS) {
                    int j = i / fours, d = i % fours;
                    float4 none = make_float4(0, 0, 0, 0), a = none, b = none;
                    if (start + j < to) a = get_four(source.key(start + j), d), b = get_four(source.value(start + j), d);
                    float *row = k + j * (head_dim + 1) + 4 * d;
                    row[0] = a.x, row[1] = a.y, row[2] = a.z, row[3] = a.w;
                    row = v + j * head_dim + 4 * d;
                    row[0] = b.x, row[1] = b.y, row[2] = b.z, row[3] = b.w;
                }
            } else {
                for (int i = threadIdx.x; i < TILE * head_dim; i += THREADS) {
                    int j = i / head_dim, d = i % head_dim;
                    bool there = start + j < to;
                    k[j * (head_dim + 1) + d] = there ? (float)source.key(start + j)[d] : 0;
                    v[i] = there ? (float)source.value(start + j)[d] : 0;
                }
            }
            __syncthreads();
            // A warp has every fourth vector; a lane has one key of the tile.
            for (int vector = warp; vector < vectors; vector += THREADS / 32) {
                const float *a = q + vector * head_dim, *b = k + lane * (head_dim + 1);
                float dot = 0;
                for (int d = 0; d < head_dim; d++) dot = fmaf(a[d], b[d], dot);
                int position = task.position + vector / group, key = start + lane;
                bool seen = key <= position && key >= first_seen(position, shape.window);
                float score = seen ? dot * shape.scale : -INFINITY;
                float before = max[vector], now = fmaxf(before, warp_max(score));
                float weight = seen ? expf(score - now) : 0;
                float added = warp_sum(weight);
                scores[vector * TILE + lane] = weight;
                __syncwarp();
                if (lane == 0) {
                    float shrink = before == now ? 1.0f : expf(before - now);
                    factor[vector] = shrink, max[vector] = now, sum[vector] = sum[vector] * shrink + added;
                }
            }
            __syncthreads();
            for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
                int vector = i / head_dim, d = i % head_dim;
                const float *weights = scores + vector * TILE;
                float part = 0;
                for (int j = 0; j < TILE; j++) part = fmaf(weights[j], v[j * head_dim + d], part);
                total[i] = total[i] * factor[vector] + part;
            }
        }
        __syncthreads();
    }
};

// A result in f32, or rounded to bf16.
__device__ __forceinline__ void put_rounded(void *y, size_t at, float x, int rounds) {
    if (rounds) static_cast<Half *>(y)[at] = __float2bfloat16_rn(x);
    else static_cast<float *>(y)[at] = x;
}

// Attention over the cache; grid [tasks, kv_heads, chunks]. With several chunks, `parts` gets for each
// chunk, row and head the weighted sum, the maximum and the sum; else `y` the result.
template <typename T>
__device__ void attend(const float *queries, const T *cache, const Task *tasks, const uint32_t *pages, Shape shape,
                       int rows, float *parts, void *y, int rounds) {
    Task task = tasks[blockIdx.x];
    int kv_head = blockIdx.y, chunk = blockIdx.z, head_dim = shape.head_dim;
    int group = shape.heads / shape.kv_heads, vectors = task.rows * group;
    Paged<T> source{cache, pages + task.pages, shape.kv_heads, kv_head, head_dim};
    Forward<Paged<T>> sums(dynamic, vectors, head_dim);
    sums.run(queries, task, shape, kv_head, source, chunk * CHUNK, (chunk + 1) * CHUNK);
    for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
        int vector = i / head_dim, d = i % head_dim;
        size_t at = (size_t)(task.first_row + vector / group) * shape.heads + kv_head * group + vector % group;
        if (gridDim.z == 1) {
            put_rounded(y, at * head_dim + d, sums.total[i] / sums.sum[vector], rounds);
        } else {
            float *part = parts + ((size_t)chunk * rows * shape.heads + at) * (head_dim + 2);
            part[d] = sums.total[i];
            if (d == 0) part[head_dim] = sums.max[vector], part[head_dim + 1] = sums.sum[vector];
        }
    }
}

KERNEL attend_f32(const float *queries, const float *cache, const Task *tasks, const uint32_t *pages, Shape shape,
                  int rows, float *parts, void *y, int rounds) {
    attend(queries, cache, tasks, pages, shape, rows, parts, y, rounds);
}

KERNEL attend_bf16(const float *queries, const Half *cache, const Task *tasks, const uint32_t *pages, Shape shape,
                   int rows, float *parts, void *y, int rounds) {
    attend(queries, cache, tasks, pages, shape, rows, parts, y, rounds);
}

// Puts the chunks together, in order; one block for each row and head.
KERNEL join_chunks(const float *parts, int chunks, int heads_of_rows, int head_dim, void *y, int rounds) {
    size_t at = blockIdx.x;
    const float *part = parts + at * (head_dim + 2);
    size_t step = (size_t)heads_of_rows * (head_dim + 2);
    float max = -INFINITY;
    for (int c = 0; c < chunks; c++) max = fmaxf(max, part[c * step + head_dim]);
    for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
        float total = 0, sum = 0;
        for (int c = 0; c < chunks; c++) {
            float weight = expf(part[c * step + head_dim] - max);
            total = fmaf(weight, part[c * step + d], total);
            sum = fmaf(weight, part[c * step + head_dim + 1], sum);
        }
        put_rounded(y, at * head_dim + d, total / sum, rounds);
    }
}

// Writes keys and values of rows into their pages.
template <typename T>
__device__ void store(const float *keys, const float *values, const uint32_t *positions, const uint32_t *tables,
                      const uint32_t *pages, int kv_heads, int head_dim, size_t len, T *cache) {
    int width = kv_heads * head_dim;
    EACH(i, len) {
        size_t row = i / width;
        int head = i % width / head_dim, d = i % head_dim, position = positions[row];
        size_t page = pages[tables[row] + position / PAGE];
        size_t at = ((page * 2 * kv_heads + head) * PAGE + position % PAGE) * head_dim + d;
        cache[at] = (T)keys[i];
        cache[at + (size_t)kv_heads * PAGE * head_dim] = (T)values[i];
    }
}

KERNEL store_f32(const float *keys, const float *values, const uint32_t *positions, const uint32_t *tables,
                 const uint32_t *pages, int kv_heads, int head_dim, size_t len, float *cache) {
    store(keys, values, positions, tables, pages, kv_heads, head_dim, len, cache);
}

KERNEL store_bf16(const float *keys, const float *values, const uint32_t *positions, const uint32_t *tables,
                  const uint32_t *pages, int kv_heads, int head_dim, size_t len, Half *cache) {
    store(keys, values, positions, tables, pages, kv_heads, head_dim, len, cache);
}

// Rotates queries where they lie, and writes rotated keys, and values, into the pages of their rows; `len` counts pairs of
// numbers.
template <typename T>
__device__ void rotate_and_store(float *queries, const float *keys, const float *values, const uint32_t *positions,
                                 const uint32_t *tables, const uint32_t *pages, Shape shape, const float *cos,
                                 const float *sin, size_t len, T *cache) {
    int half = shape.head_dim / 2, all = shape.heads + 2 * shape.kv_heads;
    EACH(i, len) {
        int d = i % half, head = i / half % all;
        size_t row = i / half / all;
        int position = positions[row];
        float c = cos[(size_t)position * half + d], s = sin[(size_t)position * half + d];
        if (head < shape.heads) {
            float *low = queries + (row * shape.heads + head) * shape.head_dim + d, a = *low, b = low[half];
            *low = a * c - b * s;
            low[half] = b * c + a * s;
            continue;
        }
        head -= shape.heads;
        bool of_values = head >= shape.kv_heads;
        if (of_values) head -= shape.kv_heads;
        const float *from = (of_values ? values : keys) + (row * shape.kv_heads + head) * shape.head_dim + d;
        size_t page = pages[tables[row] + position / PAGE], kind = of_values;
        T *to = cache + (((page * 2 + kind) * shape.kv_heads + head) * PAGE + position % PAGE) * shape.head_dim + d;
        float a = from[0], b = from[half];
        *to = (T)(of_values ? a : a * c - b * s);
        to[half] = (T)(of_values ? b : b * c + a * s);
    }
}

KERNEL rotate_and_store_f32(float *queries, const float *keys, const float *values, const uint32_t *positions,
                            const uint32_t *tables, const uint32_t *pages, Shape shape, const float *cos,
                            const float *sin, size_t len, float *cache) {
    rotate_and_store(queries, keys, values, positions, tables, pages, shape, cos, sin, len, cache);
}

KERNEL rotate_and_store_bf16(float *queries, const float *keys, const float *values, const uint32_t *positions,
                             const uint32_t *tables, const uint32_t *pages, Shape shape, const float *cos,
                             const float *sin, size_t len, Half *cache) {
    rotate_and_store(queries, keys, values, positions, tables, pages, shape, cos, sin, len, cache);
}

// Attention of the segments of a training pass; grid [sections, kv_heads].
KERNEL attention(const float *queries, const float *keys, const float *values, const Section *sections, Shape shape,
                 float *y, float *log_sums) {
    Section section = sections[blockIdx.x];
    Task task{(uint32_t)section.first_row, (uint32_t)section.rows, (uint32_t)section.position, 0};
    int kv_head = blockIdx.y, head_dim = shape.head_dim;
    int group = shape.heads / shape.kv_heads, vectors = task.rows * group;
    Flat source{keys, values, section, shape.kv_heads, kv_head, head_dim};
    Forward<Flat> sums(dynamic, vectors, head_dim);
    sums.run(queries, task, shape, kv_head, source, 0, INT_MAX);
    for (int i = threadIdx.x; i < vectors * head_dim; i += THREADS) {
        int vector = i / head_dim, d = i % head_dim;
        size_t at = (size_t)(task.first_row + vector / group) * shape.heads + kv_head * group + vector % group;
        y[at * head_dim + d] = sums.total[i] / sums.sum[vector];
        if (d == 0) log_sums[at] = sums.max[vector] + logf(sums.sum[vector]);
    }
}
