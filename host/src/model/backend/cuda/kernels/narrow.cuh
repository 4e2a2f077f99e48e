// Products of few rows with a weight in bf16: y[rows, outputs] = or += x[rows, inputs] · w[outputs, inputs]ᵀ.
//
// Terms are added in an order that depends on the weight's shape alone: they are cut into `1 << cut` slices of
// blocks of TERMS, a slice is added up block by block, and then the slices in order. So each of the kernels
// here gives the same bits, whatever the number of rows, and each may be taken where it is fastest.
//
// Within a block each lane has terms 8t to 8t + 7 of both halves, t = 0 to 3, as it reads 16 bytes at a
// time: of each half the tensor core takes the first 4 of these first, then the others. Rows are its 16,
// outputs its 8.

constexpr int TERMS = 64;

__device__ __forceinline__ int slice_start(int blocks, int slice, int cut) { return blocks * slice >> cut; }

// c[16 rows, 8 outputs] += half a block; `low` and `high` are rows g and g + 8, `w` is output g.
__device__ __forceinline__ void multiply_half(float (&c)[4], uint4 low, uint4 high, uint4 w) {
    uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
    multiply(c, first, w.x, w.y);
    multiply(c, second, w.z, w.w);
}

// Where 16 bytes of a row lie in shared memory: so that the threads of two rows read different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * TERMS + (chunk ^ (row % 2 * 4)) * 8; }

__device__ __forceinline__ uint4 eight_of(const Half *x) { return *reinterpret_cast<const uint4 *>(x); }

// Weights with equally many inputs, whose rows lie `pitch` numbers apart, and which one launch multiplies with the same
// rows: `first` of each is the first block, in the grid's direction of outputs, that has outputs of it.
struct Weights {
    const Half *w[3];
    float *y[3];
};

struct Outputs {
    int outputs[3], first[3];
};

// The weight of a block.
struct OfBlock {
    const Half *w;
    float *y;
    int outputs, block, before; // its block among those of this weight, and outputs of the weights before
    __device__ __forceinline__ OfBlock(const Weights &weights, const Outputs &all, int at) {
        bool second = at >= all.first[1], third = at >= all.first[2];
        w = third ? weights.w[2] : second ? weights.w[1] : weights.w[0];
        y = third ? weights.y[2] : second ? weights.y[1] : weights.y[0];
        outputs = third ? all.outputs[2] : second ? all.outputs[1] : all.outputs[0];
        block = at - (third ? all.first[2] : second ? all.first[1] : 0);
        before = third ? all.outputs[0] + all.outputs[1] : second ? all.outputs[0] : 0;
    }
};

// Up to 8 * M rows, for which reading the weight is all the work: so each warp keeps AHEAD blocks of it on
// their way. They come through shared memory, as each wait for registers is a wait for all that were asked for
// since. A warp has a slice of 8 outputs, a block all slices of its outputs.
template <int M>
__device__ void narrow_few(const Weights &weights_of, const Outputs &all, int pitch, const Half *x, int rows,
                           int inputs, int cut, int add) {
    OfBlock own_of(weights_of, all, blockIdx.x);
    const Half *w = own_of.w;
    float *y = own_of.y;
    int outputs = own_of.outputs;
    constexpr int WARPS = 4, AHEAD = M > 1 ? 6 : 8;
    // A block of 8 outputs and then of all rows.
    constexpr int SLOT = (8 + 8 * M) * TERMS;
    float(*sums)[8 * M][8] = reinterpret_cast<float(*)[8 * M][8]>(dynamic);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int at = own_of.block * WARPS + warp, slice = at & ((1 << cut) - 1), first_output = (at >> cut) * 8;
    int blocks = (inputs + TERMS - 1) / TERMS;
    int first = slice_start(blocks, slice, cut), end = slice_start(blocks, slice + 1, cut);
    Half *slots = reinterpret_cast<Half *>(sums + WARPS) + warp * AHEAD * SLOT;
    // Each lane copies the same part of every fourth row; of the last where there is none, as nobody asks for
    // its sums.
    int own = lane / 8, chunk = lane % 8, start = first * TERMS + chunk * 8, left = min(end * TERMS, inputs) - start;
    Half *to = slots + swizzled(own, chunk);
    const Half *own_w[2], *own_x[2 * M];
#pragma unroll
    for (int i = 0; i < 2; i++) own_w[i] = w + (size_t)min(first_output + own + i * 4, outputs - 1) * pitch + start;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) own_x[i] = x + (size_t)min(own + i * 4, rows - 1) * inputs + start;
    auto fetch = [&](int block, int slot) {
        bool there = block * TERMS < left;
#pragma unroll
        for (int i = 0; i < 2; i++)
            copy_ahead(to + slot * SLOT + i * 4 * TERMS, own_w[i] + block * TERMS, there);
#pragma unroll
        for (int i = 0; i < 2 * M; i++)
            copy_ahead_cached(to + slot * SLOT + (8 + i * 4) * TERMS, own_x[i] + block * TERMS, there);
        end_copies();
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch(i, i);
    int from[2] = {swizzled(g, t), swizzled(g, 4 + t)};
    float c[4] = {};
    for (int block = 0, slot = 0; block < end - first; block++) {
        wait_for_copies<AHEAD - 1>();
        __syncwarp();
        const Half *here = slots + slot * SLOT;
        uint4 weights[2], low[2], high[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            weights[half] = eight_of(here + from[half]);
            low[half] = eight_of(here + from[half] + 8 * TERMS);
            high[half] = M > 1 ? eight_of(here + from[half] + 8 * M * TERMS) : make_uint4(0, 0, 0, 0);
        }
        // All have them in registers.
        __syncwarp();
        fetch(block + AHEAD, slot);
#pragma unroll
        for (int half = 0; half < 2; half++) multiply_half(c, low[half], high[half], weights[half]);
        slot = slot + 1 == AHEAD ? 0 : slot + 1;
    }
#pragma unroll
    for (int i = 0; i < 2 * M; i++) sums[warp][i / 2 * 8 + g][2 * t + i % 2] = c[i];
    __syncthreads();
    // Thread by thread those of the first row, then of the next.
    int width = WARPS * 8 >> cut, slices = 1 << cut;
#pragma unroll 1
    for (int i = threadIdx.x; i < width * min(rows, 8 * M); i += WARPS * 32) {
        int row = i / 8 >> (2 - cut), within = i & (width - 1), output = own_of.block * width + within;
        if (output >= outputs) continue;
        float total = sums[within / 8 << cut][row][within % 8];
#pragma unroll 1
        for (int s = 1; s < slices; s++) total += sums[(within / 8 << cut) + s][row][within % 8];
        float &to = y[(size_t)row * outputs + output];
        to = add ? to + total : total;
    }
}

extern "C" __global__ void __launch_bounds__(128)
narrow_few_8(Weights weights, Outputs outputs, int pitch, const Half *x, int rows, int inputs, int cut, int add) {
    narrow_few<1>(weights, outputs, pitch, x, rows, inputs, cut, add);
}

extern "C" __global__ void __launch_bounds__(128)
narrow_few_16(Weights weights, Outputs outputs, int pitch, const Half *x, int rows, int inputs, int cut, int add) {
    narrow_few<2>(weights, outputs, pitch, x, rows, inputs, cut, add);
}

__device__ __forceinline__ float4 sum_of(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Any number of rows; a block has ROWS rows of OUT outputs, a warp half of those rows and 48 outputs.
//
// Grid [rows / ROWS, outputs / OUT, z]: blocks that run at once read the same outputs, so that a weight comes
// out of the card's memory once. With z over 1 each block has one slice, whose sums go to `parts` [z, rows,
// outputs] of its weight, one weight after the other; else it has them all, and keeps their total behind its stages.
template <int ROWS, int OUT, int STAGES>
__device__ __forceinline__ void narrow_many(const Weights &weights_of, const Outputs &all, int pitch, const Half *x,
                                            int rows, int inputs, int cut, float *parts, int add) {
    OfBlock own_of(weights_of, all, blockIdx.y);
    const Half *w = own_of.w;
    float *y = own_of.y;
    int outputs = own_of.outputs;
    constexpr int M = ROWS / 32, N = 6, THREADS = OUT / 48 * 64;
    // A stage has TERMS terms of all rows and then of all outputs.
    constexpr int STAGE = (ROWS + OUT) * TERMS;
    Half *stages = reinterpret_cast<Half *>(dynamic);
    float4 *totals = reinterpret_cast<float4 *>(stages + STAGES * STAGE) + threadIdx.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int first_row = blockIdx.x * ROWS, first_output = own_of.block * OUT;
    int blocks = (inputs + TERMS - 1) / TERMS;
    int slice = blockIdx.z, last = gridDim.z > 1 ? slice : (1 << cut) - 1;
    int first = slice_start(blocks, slice, cut), end = slice_start(blocks, last + 1, cut);
    // Each thread copies the same part of every APART-th row.
    constexpr int APART = THREADS / 8;
    int own = threadIdx.x / 8, chunk = threadIdx.x % 8, to_own = swizzled(own, chunk);
    const Half *own_w = w + (size_t)(first_output + own) * pitch + chunk * 8;
    const Half *own_x = x + (size_t)(first_row + own) * inputs + chunk * 8;
    size_t apart_w = (size_t)APART * pitch, apart_x = (size_t)APART * inputs;
    int left_w = outputs - first_output - own, left_x = rows - first_row - own, left_k = inputs - chunk * 8;
    auto fetch = [&](int block, int stage) {
        if (block < end) {
            Half *to = stages + stage * STAGE + to_own;
            int k = block * TERMS;
            bool there = k < left_k;
#pragma unroll
            for (int i = 0; i < ROWS / APART; i++) {
                bool copied = there && i * APART < left_x;
                copy_ahead(to + i * APART * TERMS, own_x + i * apart_x + k, copied);
            }
#pragma unroll
            for (int i = 0; i < OUT / APART; i++) {
                bool copied = there && i * APART < left_w;
                copy_ahead(to + (ROWS + i * APART) * TERMS, own_w + i * apart_w + k, copied);
            }
        }
        end_copies();
    };
    int rows_of = warp % 2 * (ROWS / 2), outputs_of = warp / 2 * 48;
    // Rows of a stage that this lane reads are 8 apart, so they are swizzled alike.
    int from[2];
    for (int half = 0; half < 2; half++) from[half] = swizzled(g, half * 4 + t);
    // Half a block is multiplied while the next is on its way out of shared memory.
    uint4 terms[2][M][2], weights[2][N];
    auto load = [&](int half, int stage) {
        const Half *here = stages + stage * STAGE + from[half];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) terms[half][m][i] = eight_of(here + (rows_of + m * 16 + i * 8) * TERMS);
#pragma unroll
        for (int n = 0; n < N; n++) weights[half][n] = eight_of(here + (ROWS + outputs_of + n * 8) * TERMS);
    };
    float c[M][N][4] = {};
    auto multiply_all = [&](int half) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
                multiply_half(c[m][n], terms[half][m][0], terms[half][m][1], weights[half][n]);
    };
    // c = total + c
    auto add_total = [&]() {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++) {
                float(&own)[4] = c[m][n];
                float4 sum = sum_of(totals[(m * N + n) * THREADS], make_float4(own[0], own[1], own[2], own[3]));
                own[0] = sum.x, own[1] = sum.y, own[2] = sum.z, own[3] = sum.w;
            }
    };
    // Ends those slices that end before a block, but the last.
    auto end_slices = [&](int block) {
        while (slice < last && slice_start(blocks, slice + 1, cut) == block) {
            if (slice > 0) add_total();
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++) {
                    float(&own)[4] = c[m][n];
                    totals[(m * N + n) * THREADS] = make_float4(own[0], own[1], own[2], own[3]);
                    own[0] = own[1] = own[2] = own[3] = 0;
                }
            slice++;
        }
    };
    end_slices(first);
    for (int i = 0; i < STAGES; i++) fetch(first + i, i);
    wait_for_copies<STAGES - 1>();
    __syncthreads();
    load(0, 0);
    for (int block = first, stage = 0; block < end; block++) {
        int next = stage + 1 == STAGES ? 0 : stage + 1;
        load(1, stage);
        multiply_all(0);
        wait_for_copies<STAGES - 2>();
        // All have the stage in registers, and may read what came for the next.
        __syncthreads();
        fetch(block + STAGES, stage);
        load(0, next);
        multiply_all(1);
        end_slices(block + 1);
        stage = next;
    }
    bool is_part = gridDim.z > 1;
    if (!is_part && slice > 0) add_total();
    float *to = is_part ? parts + ((size_t)gridDim.z * own_of.before + (size_t)slice * outputs) * rows : y;
    add = add && !is_part;
    // Through shared memory, so that whole lines are written; there a row is so long that the threads of 4 rows
    // write to different banks.
    constexpr int LINE = OUT + 8, BATCH = 6;
    float *sums = dynamic;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float *two = sums + (rows_of + m * 16 + i * 8 + g) * LINE + outputs_of + n * 8 + 2 * t;
                *reinterpret_cast<float2 *>(two) = make_float2(c[m][n][2 * i], c[m][n][2 * i + 1]);
            }
    __syncthreads();
    if (by_four(outputs, to)) {
        for (int from = threadIdx.x; from < ROWS * OUT / 4; from += BATCH * THREADS) {
            // All are asked for before one is waited for.
            float4 before[BATCH];
            auto each = [&](auto &&ask) {
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    int quad = from + i * THREADS, row = quad / (OUT / 4), output = quad % (OUT / 4) * 4;
                    if (first_row + row < rows && first_output + output < outputs)
                        ask(i, to + (size_t)(first_row + row) * outputs + first_output + output, row * LINE + output);
                }
            };
            if (add) each([&](int i, float *at, int) { before[i] = four(at, 0); });
            each([&](int i, float *at, int place) {
                float4 sum = four(sums + place, 0);
                if (add) sum = sum_of(before[i], sum);
                four(at, 0) = sum;
            });
        }
        return;
    }
    for (int i = threadIdx.x; i < ROWS * OUT; i += THREADS) {
        int row = i / OUT, output = i % OUT;
        if (first_row + row >= rows || first_output + output >= outputs) continue;
        float &at = to[(size_t)(first_row + row) * outputs + first_output + output], sum = sums[row * LINE + output];
        at = add ? at + sum : sum;
    }
}

// The name of each has its rows and outputs.
#define NARROW_MANY(ROWS, OUT, STAGES)                                                                             \
    extern "C" __global__ void __launch_bounds__(OUT / 48 * 64)                                                    \
    narrow_##ROWS##_##OUT(Weights weights, Outputs outputs, int pitch, const Half *x, int rows, int inputs,        \
                          int cut, float *parts, int add) {                                                        \
        narrow_many<ROWS, OUT, STAGES>(weights, outputs, pitch, x, rows, inputs, cut, parts, add);                 \
    }

NARROW_MANY(64, 96, 4)
NARROW_MANY(128, 96, 4)
NARROW_MANY(128, 192, 3)

// Adds up the slices, in order.
KERNEL add_slices(const float *parts, int cut, size_t len, float *y, int add) {
    if (by_four(len, parts, y)) {
        EACH(i, len / 4) {
            float4 total = four(parts, i);
#pragma unroll 4
            for (int s = 1; s < 1 << cut; s++) total = sum_of(total, four(parts + s * len, i));
            float4 &to = four(y, i);
            to = add ? sum_of(to, total) : total;
        }
        return;
    }
    EACH(i, len) {
        float total = parts[i];
        for (int s = 1; s < 1 << cut; s++) total += parts[s * len + i];
        y[i] = add ? y[i] + total : total;
    }
}
