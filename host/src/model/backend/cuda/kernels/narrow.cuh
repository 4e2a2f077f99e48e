// Products of few rows with a weight in bf16: y[rows, outputs] = or += x[rows, inputs] · w[outputs, inputs]ᵀ.
//
// Terms are added in an order that depends on `inputs` alone: they are cut into SLICES of blocks of 32,
// a slice is added up block by block, and then the slices in order. So each of the kernels here gives the
// same bits, whatever the number of rows, and each may be taken where it is fastest.
//
// Within a block the tensor core takes the terms 8t, 8t + 1, 8t + 2 and 8t + 3 first, t = 0 to 3, then
// the other halves: so each thread reads 16 bytes at a time.

constexpr int SLICES = 8;
constexpr int TERMS = 32;

__device__ __forceinline__ int slice_start(int blocks, int slice) { return blocks * slice / SLICES; }

// c[16 outputs, 8 rows] += one block; `low` and `high` are outputs g and g + 8, `x` row g.
__device__ __forceinline__ void multiply_block(float (&c)[4], uint4 low, uint4 high, uint4 x) {
    uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
    multiply(c, first, x.x, x.y);
    multiply(c, second, x.z, x.w);
}

__device__ __forceinline__ uint4 sixteen_bytes(const Half *x, bool there) {
    return there ? *reinterpret_cast<const uint4 *>(x) : make_uint4(0, 0, 0, 0);
}

// Up to 8 * N rows, for which reading the weight is all the work. A block has 16 outputs, a warp one slice.
template <int N>
__device__ void narrow_few(const Half *w, const Half *x, int rows, int outputs, int inputs, float *y, int add) {
    constexpr int AHEAD = 4;
    __shared__ float sums[SLICES][8 * N][16];
    int slice = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int output = blockIdx.x * 16 + g, blocks = (inputs + TERMS - 1) / TERMS;
    const Half *low = w + (size_t)output * inputs + 8 * t, *high = low + (size_t)8 * inputs;
    bool low_there = output < outputs, high_there = output + 8 < outputs;
    float c[N][4] = {};
    int end = slice_start(blocks, slice + 1);
    for (int block = slice_start(blocks, slice); block < end; block += AHEAD) {
        uint4 a[AHEAD], b[AHEAD], v[AHEAD][N];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int k = (block + i) * TERMS;
            bool there = block + i < end && k + 8 * t < inputs;
            a[i] = sixteen_bytes(low + k, there && low_there);
            b[i] = sixteen_bytes(high + k, there && high_there);
#pragma unroll
            for (int n = 0; n < N; n++) {
                int row = n * 8 + g;
                v[i][n] = sixteen_bytes(x + (size_t)row * inputs + k + 8 * t, there && row < rows);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (block + i < end)
#pragma unroll
                for (int n = 0; n < N; n++) multiply_block(c[n], a[i], b[i], v[i][n]);
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[slice][n * 8 + 2 * t + i % 2][g + i / 2 * 8] = c[n][i];
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * 8 * N; i += blockDim.x) {
        int row = i / 16, o = blockIdx.x * 16 + i % 16;
        if (row >= rows || o >= outputs) continue;
        float total = 0;
        for (int s = 0; s < SLICES; s++) total += sums[s][row][i % 16];
        size_t at = (size_t)row * outputs + o;
        y[at] = add ? y[at] + total : total;
    }
}

KERNEL narrow_few_8(const Half *w, const Half *x, int rows, int outputs, int inputs, float *y, int add) {
    narrow_few<1>(w, x, rows, outputs, inputs, y, add);
}

KERNEL narrow_few_16(const Half *w, const Half *x, int rows, int outputs, int inputs, float *y, int add) {
    narrow_few<2>(w, x, rows, outputs, inputs, y, add);
}

constexpr int OUT = 128, ROWS = 64, DEEP = 64, STAGES = 4;

// Where 16 bytes of a row lie in a stage: so that the threads of two rows read different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * DEEP + (chunk ^ (row % 2 * 4)) * 8; }

// Any number of rows; grid [outputs / OUT, rows / ROWS, z] with 128 threads. With z over 1 each block has
// SLICES / z slices, whose sums go to `parts` [SLICES, rows, outputs].
extern "C" __global__ void __launch_bounds__(THREADS)
narrow_many(const Half *w, const Half *x, int rows, int outputs, int inputs, float *parts, float *y, int add) {
    Half *stages = reinterpret_cast<Half *>(dynamic);
    constexpr int STAGE = (OUT + ROWS) * DEEP;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int first_output = blockIdx.x * OUT, first_row = blockIdx.y * ROWS;
    int blocks = (inputs + TERMS - 1) / TERMS, each = SLICES / gridDim.z;
    int slice = blockIdx.z * each, last_slice = slice + each;
    int first = slice_start(blocks, slice), end = slice_start(blocks, last_slice);
    int count = (end - first + 1) / 2;
    // Each thread copies the same part of every 16th row.
    constexpr int APART = THREADS / 8;
    int own = threadIdx.x / 8, chunk = threadIdx.x % 8, to_own = swizzled(own, chunk);
    const Half *own_w = w + (size_t)(first_output + own) * inputs + first * TERMS + chunk * 8;
    const Half *own_x = x + (size_t)(first_row + own) * inputs + first * TERMS + chunk * 8;
    size_t apart = (size_t)APART * inputs;
    int left_w = outputs - first_output - own, left_x = rows - first_row - own;
    auto fetch = [&](int stage) {
        if (stage < count) {
            Half *to = stages + stage % STAGES * STAGE + to_own;
            int k = stage * DEEP;
            bool there = first * TERMS + k + chunk * 8 < inputs;
#pragma unroll
            for (int i = 0; i < OUT / APART; i++) {
                bool copied = there && i * APART < left_w;
                copy_ahead(to + i * APART * DEEP, copied ? own_w + i * apart + k : w, copied);
            }
#pragma unroll
            for (int i = 0; i < ROWS / APART; i++) {
                bool copied = there && i * APART < left_x;
                copy_ahead(to + (OUT + i * APART) * DEEP, copied ? own_x + i * apart + k : x, copied);
            }
        }
        end_copies();
    };
    // A warp has 64 outputs and 32 rows.
    int outputs_of = warp % 2 * 64, rows_of = OUT + warp / 2 * 32;
    float c[4][4][4] = {}, total[4][4][4] = {};
    auto place = [&](int m, int n, int i) {
        int output = first_output + outputs_of + m * 16 + g + i / 2 * 8;
        int row = first_row + rows_of - OUT + n * 8 + 2 * t + i % 2;
        bool there = output < outputs && row < rows;
        return there ? (long long)row * outputs + output : -1;
    };
    auto flush = [&]() {
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (gridDim.z == 1) {
                        total[m][n][i] += c[m][n][i];
                    } else {
                        long long at = place(m, n, i);
                        if (at >= 0) parts[(size_t)slice * rows * outputs + at] = c[m][n][i];
                    }
                    c[m][n][i] = 0;
                }
        slice++;
    };
    for (int stage = 0; stage < STAGES - 1; stage++) fetch(stage);
    while (slice < last_slice && slice_start(blocks, slice + 1) == first) flush();
    for (int stage = 0; stage < count; stage++) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        fetch(stage + STAGES - 1);
        const Half *here = stages + stage % STAGES * STAGE;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int block = first + 2 * stage + half;
            if (block >= end) break;
            uint4 v[4];
#pragma unroll
            for (int n = 0; n < 4; n++)
                v[n] = *reinterpret_cast<const uint4 *>(here + swizzled(rows_of + n * 8 + g, half * 4 + t));
#pragma unroll
            for (int m = 0; m < 4; m++) {
                int row = outputs_of + m * 16 + g;
                uint4 low = *reinterpret_cast<const uint4 *>(here + swizzled(row, half * 4 + t));
                uint4 high = *reinterpret_cast<const uint4 *>(here + swizzled(row + 8, half * 4 + t));
#pragma unroll
                for (int n = 0; n < 4; n++) multiply_block(c[m][n], low, high, v[n]);
            }
            while (slice < last_slice && slice_start(blocks, slice + 1) == block + 1) flush();
        }
    }
    if (gridDim.z > 1) return;
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long at = place(m, n, i);
                if (at >= 0) y[at] = add ? y[at] + total[m][n][i] : total[m][n][i];
            }
}

// Adds up the slices, in order.
KERNEL add_slices(const float *parts, size_t len, float *y, int add) {
    EACH(i, len) {
        float total = 0;
        for (int s = 0; s < SLICES; s++) total += parts[s * len + i];
        y[i] = add ? y[i] + total : total;
    }
}
