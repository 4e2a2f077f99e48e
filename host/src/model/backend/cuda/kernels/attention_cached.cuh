// Attention over a cache in bf16 where weights are bf16: queries and weights of values are rounded to
// bf16 for the tensor cores, sums and softmax are f32. A block has 4 warps; vectors are rows with each
// query head of one key and value head.
//
// The positions of a chunk are cut into QUARTERS: of its 8 tiles, tiles q and q + 4 are a quarter. For
// each vector a quarter becomes a maximum, a sum of weights and a weighted sum of values, and these are
// put together in order; the chunks likewise. So a row comes to the same bits wherever the work is done:
// for up to 16 vectors each warp has one quarter, for more each warp has 16 vectors and all quarters.

constexpr int QUARTERS = 4;
constexpr int APART = QUARTERS * TILE; // Between the two tiles of a quarter.
constexpr int SLOTS = 12;              // Tiles of keys or values in shared memory.
constexpr int PAGES = CHUNK / PAGE;

// Rows of a pass that read the same pages for a chunk.
struct Reading {
    uint32_t first_row, rows; // of the pass; no rows is no work
    uint32_t chunk;
    uint32_t pages;      // where the pages begin, from position 0 on
    uint32_t start, end; // positions of the chunk that any of the rows sees
};

// What the sums beside a maximum are worth beside a larger one. Maxima are of products that `scale` is still to be
// taken times of. Here and below the order of operations leaves a compiler nothing to fuse, so that it is the same in
// each kernel.
__device__ __forceinline__ float worth(float max, float larger, float scale) {
    return max == larger ? 1.0f : exp2f((max - larger) * scale);
}

__device__ __forceinline__ float joined(float before, float worth_before, float added, float worth_added) {
    return fmaf(added, worth_added, before * worth_before);
}

// The pages of a chunk.
template <int D> struct Pages {
    static constexpr int STRIDE = D + 8;
    const Half *cache;
    const uint32_t *table; // in shared memory
    size_t kv_heads, kv_head;
    int first, start, end;

    // Lets COPIERS threads copy a tile of keys or values, with zeros for what nobody sees.
    template <int COPIERS> __device__ __forceinline__ void copy(Half *to, int from, int kind, int copier) const {
        constexpr int PIECES = D / 8;
        [[maybe_unused]] constexpr int UNROLLED = COPIERS > 32 ? TILE * PIECES / COPIERS : 2;
#pragma unroll UNROLLED
        for (int i = 0; i < TILE * PIECES / COPIERS; i++) {
            int row = (i * COPIERS + copier) / PIECES, piece = copier % PIECES * 8, position = from + row;
            bool there = position >= start && position < end;
            size_t page = table[(position - first) / PAGE];
            const Half *at = cache + (((page * 2 + kind) * kv_heads + kv_head) * PAGE + position % PAGE) * D + piece;
            copy_ahead(to + row * STRIDE + piece, there ? at : cache, there);
        }
    }

    // How many tiles of a quarter are worked on.
    __device__ __forceinline__ int tiles(int quarter) const {
        int low = first + quarter * TILE, high = low + APART;
        if (high < end && high + TILE > start) return 2;
        return low < end && low + TILE > start;
    }
};

// 16 vectors as the tensor core takes them; a lane has two of them.
template <int D> struct Queries {
    uint32_t q[D / 16][4];
    int position[2];

    __device__ __forceinline__ void load(const float *queries, const uint32_t *positions, Reading task, Shape shape,
                                         int kv_head, int first) {
        int group = shape.heads / shape.kv_heads, count = task.rows * group, lane = threadIdx.x % 32;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int vector = first + lane / 4 + r * 8;
            bool there = vector < count;
            int row = task.first_row + (there ? vector / group : 0), head = kv_head * group + vector % group;
            const float *x = queries + ((size_t)row * shape.heads + head) * D + lane % 4 * 2;
            // Vectors that are not there see all, so that they ask for no mask.
            position[r] = there ? positions[row] : 1 << 30;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                float2 two = there ? *reinterpret_cast<const float2 *>(x + i * 8) : make_float2(0, 0);
                q[i / 2][i % 2 * 2 + r] = pack(two.x, two.y);
            }
        }
    }

    // Their products with the keys of a tile.
    __device__ __forceinline__ void score(float (&scores)[TILE / 8][4], const Half *keys) const {
        constexpr int STRIDE = D + 8;
        int lane = threadIdx.x % 32;
        keys += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = 0;
#pragma unroll
        for (int k = 0; k < D / 16; k++)
#pragma unroll
            for (int n = 0; n < TILE / 8; n += 2) {
                uint32_t right[4];
                load_four(right, keys + n * 8 * STRIDE + k * 16);
                multiply(scores[n], q[k], right[0], right[1]);
                multiply(scores[n + 1], q[k], right[2], right[3]);
            }
    }

    // Makes weights of the scores of a quarter, whose first tile begins at `from`.
    template <int TILES>
    __device__ __forceinline__ void weigh(float (&scores)[TILES][TILE / 8][4], int from, Shape shape, float (&max)[2],
                                          float (&sum)[2]) const {
        int lane = threadIdx.x % 32;
        float scale = shape.scale * LOG2E;
        int last = from + (TILES - 1) * APART + TILE - 1;
        bool all = shape.window == 0 && position[0] >= last && position[1] >= last;
        max[0] = max[1] = -INFINITY;
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = from + t * APART + n * 8 + lane % 4 * 2 + i % 2;
                    bool seen = all || sees(position[i / 2], key, shape.window);
                    if (!seen) scores[t][n][i] = -INFINITY;
                    max[i / 2] = fmaxf(max[i / 2], scores[t][n][i]);
                }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffff, max[r], 1));
            max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffff, max[r], 2));
            float largest = max[r] == -INFINITY ? 0 : max[r] * scale;
            sum[r] = 0;
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                    for (int i = 2 * r; i < 2 * r + 2; i++) {
                        scores[t][n][i] = exp2f(fmaf(scores[t][n][i], scale, -largest));
                        sum[r] += scores[t][n][i];
                    }
            sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 2);
        }
    }
};

// Values times weights: `take(n, c)` gets columns 8n to 8n + 7 as the tensor core leaves them. What is done once in a
// block is a loop of UNROLLED 1: there its instructions come from as far as its numbers.
template <int D, int TILES, int UNROLLED, typename Take>
__device__ __forceinline__ void add_values(const float (&weights)[TILES][TILE / 8][4],
                                           const Half *const (&values)[2], Take take) {
    constexpr int STRIDE = D + 8;
    int lane = threadIdx.x % 32, own = (lane % 16) * STRIDE + lane / 16 * 8;
    uint32_t left[TILES][TILE / 16][4];
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int k = 0; k < TILE / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *two = weights[t][2 * k + i / 2] + i % 2 * 2;
                left[t][k][i] = pack(two[0], two[1]);
            }
#pragma unroll UNROLLED
    for (int n = 0; n < D / 8; n += 2) {
        float c[2][4] = {};
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int k = 0; k < TILE / 16; k++) {
                uint32_t right[4];
                load_four_turned(right, values[t] + own + k * 16 * STRIDE + n * 8);
                multiply(c[0], left[t][k], right[0], right[1]);
                multiply(c[1], left[t][k], right[2], right[3]);
            }
        take(n, c[0]);
        take(n + 1, c[1]);
    }
}

// Where the sums of a vector go.
struct Place {
    float *totals, *sums; // of this chunk
    Half *result;         // instead of them, where its row sees nothing else; none of all where it sees nothing of it

    // The two columns from `d` on.
    __device__ __forceinline__ void put(int d, float2 total, float max, float sum) const {
        if (result) *reinterpret_cast<uint32_t *>(result + d) = pack(total.x / sum, total.y / sum);
        if (!totals) return;
        *reinterpret_cast<float2 *>(totals + d) = total;
        if (d == 0) *reinterpret_cast<float2 *>(sums) = make_float2(max, sum);
    }
};

// All places. `parts` has for each chunk the weighted sums of all rows and heads, and then the maximum and the sum
// of weights of each.
template <int D> struct Places {
    const uint32_t *positions;
    float *parts;
    Half *y;
    Shape shape;
    Reading task;
    int kv_head, rows;

    __device__ __forceinline__ Place of(int vector) const {
        int group = shape.heads / shape.kv_heads, row = task.first_row + vector / group;
        int position = positions[row], chunk = task.chunk;
        int low = first_seen(position, shape.window) / CHUNK, high = position / CHUNK;
        if (chunk < low || chunk > high) return Place{nullptr, nullptr, nullptr};
        size_t at = (size_t)row * shape.heads + kv_head * group + vector % group, all = (size_t)rows * shape.heads;
        if (low == high) return Place{nullptr, nullptr, y + at * D};
        float *part = parts + (size_t)chunk * all * (D + 2);
        return Place{part + at * D, part + all * D + 2 * at, nullptr};
    }
};

// The sums of one quarter for up to 16 vectors, by one warp in three slots. Leaves the weighted sums in the
// last of them.
template <int D, int TILES>
__device__ __forceinline__ void sum_quarter(const Queries<D> &vectors, Pages<D> pages, Shape shape, int quarter,
                                            Half *slots, float (&max)[2], float (&sum)[2]) {
    constexpr int STRIDE = D + 8, SLOT = TILE * STRIDE;
    int lane = threadIdx.x % 32, from = pages.first + quarter * TILE;
    float scores[TILES][TILE / 8][4];
    wait_for_copies<2>();
    __syncwarp();
    vectors.score(scores[0], slots);
    if (TILES == 2) {
        __syncwarp();
        pages.template copy<32>(slots, from + APART, 1, lane);
        end_copies();
        wait_for_copies<2>();
        __syncwarp();
        vectors.score(scores[TILES - 1], slots + 2 * SLOT);
    }
    vectors.template weigh<TILES>(scores, from, shape, max, sum);
    wait_for_copies<0>();
    __syncwarp();
    const Half *const values[2] = {slots + SLOT, slots};
    float *room = reinterpret_cast<float *>(slots + 2 * SLOT) + lane / 4 * STRIDE + lane % 4 * 2;
    add_values<D, TILES, 1>(scores, values, [&](int n, float (&c)[4]) {
        *reinterpret_cast<float2 *>(room + n * 8) = make_float2(c[0], c[1]);
        *reinterpret_cast<float2 *>(room + 8 * STRIDE + n * 8) = make_float2(c[2], c[3]);
    });
}

// Up to 16 vectors: each warp has a quarter.
template <int D>
__device__ __forceinline__ void attend_few(const float *queries, Pages<D> pages, Places<D> places) {
    constexpr int STRIDE = D + 8, SLOT = TILE * STRIDE, EACH = SLOTS / QUARTERS;
    __shared__ float maxima[QUARTERS][16], sums[QUARTERS][16];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Half *all = reinterpret_cast<Half *>(dynamic), *slots = all + warp * EACH * SLOT;
    int from = pages.first + warp * TILE, tiles = pages.tiles(warp);
    if (tiles > 0) pages.template copy<32>(slots, from, 0, lane);
    end_copies();
    if (tiles > 1) pages.template copy<32>(slots + 2 * SLOT, from + APART, 0, lane);
    end_copies();
    if (tiles > 0) pages.template copy<32>(slots + SLOT, from, 1, lane);
    end_copies();
    Shape shape = places.shape;
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    if (tiles > 0) {
        Queries<D> vectors;
        vectors.load(queries, places.positions, places.task, shape, places.kv_head, 0);
        if (tiles > 1)
            sum_quarter<D, 2>(vectors, pages, shape, warp, slots, max, sum);
        else
            sum_quarter<D, 1>(vectors, pages, shape, warp, slots, max, sum);
    }
    if (lane % 4 == 0)
#pragma unroll
        for (int r = 0; r < 2; r++) maxima[warp][lane / 4 + r * 8] = max[r], sums[warp][lane / 4 + r * 8] = sum[r];
    __syncthreads();
    int count = places.task.rows * (shape.heads / shape.kv_heads);
    float scale = shape.scale * LOG2E;
#pragma unroll 1
    for (int i = threadIdx.x; i < count * D / 2; i += THREADS) {
        int vector = i / (D / 2), d = i % (D / 2) * 2;
        float whole = -INFINITY, weight = 0;
        float2 total = make_float2(0, 0);
#pragma unroll
        for (int q = 0; q < QUARTERS; q++) {
            float own = maxima[q][vector], now = fmaxf(whole, own), a = worth(whole, now, scale);
            float b = worth(own, now, scale);
            float2 part = make_float2(0, 0);
            const float *room = reinterpret_cast<const float *>(all + (q * EACH + 2) * SLOT);
            if (own != -INFINITY) part = *reinterpret_cast<const float2 *>(room + vector * STRIDE + d);
            total = make_float2(joined(total.x, a, part.x, b), joined(total.y, a, part.y, b));
            weight = joined(weight, a, sums[q][vector], b), whole = now;
        }
        places.of(vector).put(d, total, whole, weight);
    }
}

// Up to 64 vectors: each warp has 16 of them.
template <int D>
__device__ __forceinline__ void attend_many(const float *queries, Pages<D> pages, Places<D> places) {
    constexpr int SLOT = TILE * (D + 8), EACH = 4, AHEAD = SLOTS / EACH;
    Half *slots = reinterpret_cast<Half *>(dynamic);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Keys and values of the first tile, then those of the other.
    auto fetch = [&](int quarter) {
        if (quarter < QUARTERS) {
            Half *to = slots + quarter % AHEAD * EACH * SLOT;
            int tiles = pages.tiles(quarter), from = pages.first + quarter * TILE;
            for (int t = 0; t < tiles; t++)
                for (int kind = 0; kind < 2; kind++)
                    pages.template copy<THREADS>(to + (2 * t + kind) * SLOT, from + t * APART, kind, threadIdx.x);
        }
        end_copies();
    };
    for (int quarter = 0; quarter < AHEAD - 1; quarter++) fetch(quarter);
    Shape shape = places.shape;
    int count = places.task.rows * (shape.heads / shape.kv_heads);
    Queries<D> vectors;
    vectors.load(queries, places.positions, places.task, shape, places.kv_head, warp * 16);
    float scale = shape.scale * LOG2E, total[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    for (int quarter = 0; quarter < QUARTERS; quarter++) {
        wait_for_copies<AHEAD - 2>();
        __syncthreads();
        fetch(quarter + AHEAD - 1);
        int tiles = pages.tiles(quarter), from = pages.first + quarter * TILE;
        const Half *here = slots + quarter % AHEAD * EACH * SLOT;
        const Half *const values[2] = {here + SLOT, here + 3 * SLOT};
        float own[2], added[2], a[2], b[2];
        auto weigh_up = [&]() {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float now = fmaxf(max[r], own[r]);
                a[r] = worth(max[r], now, scale), b[r] = worth(own[r], now, scale);
                sum[r] = joined(sum[r], a[r], added[r], b[r]), max[r] = now;
            }
        };
        auto add = [&](int n, float (&c)[4]) {
#pragma unroll
            for (int i = 0; i < 4; i++) total[n][i] = joined(total[n][i], a[i / 2], c[i], b[i / 2]);
        };
        if (warp * 16 >= count || tiles == 0) continue;
        if (tiles > 1) {
            float scores[2][TILE / 8][4];
            vectors.score(scores[0], here);
            vectors.score(scores[1], here + 2 * SLOT);
            vectors.template weigh<2>(scores, from, shape, own, added);
            weigh_up();
            add_values<D, 2, D / 16>(scores, values, add);
        } else {
            float scores[1][TILE / 8][4];
            vectors.score(scores[0], here);
            vectors.template weigh<1>(scores, from, shape, own, added);
            weigh_up();
            add_values<D, 1, D / 16>(scores, values, add);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int vector = warp * 16 + lane / 4 + r * 8;
        if (vector >= count) continue;
        Place place = places.of(vector);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            place.put(n * 8 + lane % 4 * 2, make_float2(total[n][2 * r], total[n][2 * r + 1]), max[r], sum[r]);
    }
}

// Grid [tasks, kv_heads].
template <int D>
__device__ __forceinline__ void attend_cached(const float *queries, const Half *cache, const Reading *tasks,
                                              const uint32_t *positions, const uint32_t *pages, Shape shape, int rows,
                                              float *parts, Half *y) {
    __shared__ uint32_t table[PAGES];
    Reading task = tasks[blockIdx.x];
    if (task.rows == 0) return;
    int first = task.chunk * CHUNK, kv_head = blockIdx.y;
    if (threadIdx.x < PAGES) {
        // Of the others there may be none.
        int position = first + threadIdx.x * PAGE;
        bool there = position < (int)task.end && position + PAGE > (int)task.start;
        table[threadIdx.x] = there ? pages[task.pages + position / PAGE] : 0;
    }
    __syncthreads();
    Pages<D> chunk{cache, table, (size_t)shape.kv_heads, (size_t)kv_head, first, (int)task.start, (int)task.end};
    Places<D> places{positions, parts, y, shape, task, kv_head, rows};
    if (task.rows * (shape.heads / shape.kv_heads) <= 16)
        attend_few<D>(queries, chunk, places);
    else
        attend_many<D>(queries, chunk, places);
}

// As many blocks at a time as a processor has room for.
#define CACHED_KERNEL(D, BLOCKS)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                     \
        attend_cached_##D(const float *queries, const Half *cache, const Reading *tasks, const uint32_t *positions,   \
                          const uint32_t *pages, Shape shape, int rows, float *parts, Half *y)  {                     \
        attend_cached<D>(queries, cache, tasks, positions, pages, shape, rows, parts, y);                             \
    }

CACHED_KERNEL(64, 3)
CACHED_KERNEL(128, 2)

// Puts the chunks of rows that see several together, in order; a thread has two columns.
KERNEL join_cached(const float *parts, const uint32_t *positions, Shape shape, int rows, Half *y) {
    int head_dim = shape.head_dim;
    float scale = shape.scale * LOG2E;
    size_t all = (size_t)rows * shape.heads, step = all * (head_dim + 2);
    EACH(i, all * (head_dim / 2)) {
        size_t at = i / (head_dim / 2);
        int d = i % (head_dim / 2) * 2, position = positions[at / shape.heads];
        int low = first_seen(position, shape.window) / CHUNK, high = position / CHUNK;
        if (low == high) continue;
        const float *totals = parts + at * head_dim + d, *sums = parts + all * head_dim + 2 * at;
        float max = -INFINITY, sum = 0;
        float2 total = make_float2(0, 0);
#pragma unroll 4
        for (int chunk = low; chunk <= high; chunk++) {
            float2 part = *reinterpret_cast<const float2 *>(totals + chunk * step);
            float2 own = *reinterpret_cast<const float2 *>(sums + chunk * step);
            float now = fmaxf(max, own.x), a = worth(max, now, scale), b = worth(own.x, now, scale);
            total = make_float2(joined(total.x, a, part.x, b), joined(total.y, a, part.y, b));
            sum = joined(sum, a, own.y, b), max = now;
        }
        *reinterpret_cast<uint32_t *>(y + at * head_dim + d) = pack(total.x / sum, total.y / sum);
    }
}
