// Drawing a token from a row of logits; one block a row. The same rules as on the processor
// (`generate::sample`), but tokens that are left are drawn from in the order of their ids.
//
// Weights are added up as whole numbers, so their order does not matter.

typedef unsigned long long Mass;

constexpr int DRAWERS = 1024;

struct Rules {
    double factor; // 1 / temperature; 0 takes the largest
    double top_p, top_k, uniform;
};

constexpr int SUMS = 16;

// Room for what each warp has, a number further apart than there are so that lanes read different banks.
typedef Mass Room[32][SUMS + 1];

// One of two lanes keeps the first half of what is left, the other the second; each adds what the other gives.
template <int HALF> __device__ __forceinline__ void share(Mass (&sums)[SUMS]) {
    bool second = threadIdx.x & 2 * HALF;
#pragma unroll
    for (int n = 0; n < HALF; n++) {
        Mass given = second ? sums[n] : sums[n + HALF], kept = second ? sums[n + HALF] : sums[n];
        sums[n] = kept + __shfl_xor_sync(0xffffffff, given, 2 * HALF);
    }
}

// Sums over a warp; lanes 2n and 2n + 1 get that of number n.
__device__ __forceinline__ Mass warp_sums(Mass (&sums)[SUMS]) {
    share<8>(sums), share<4>(sums), share<2>(sums), share<1>(sums);
    return sums[0] + __shfl_xor_sync(0xffffffff, sums[0], 1);
}

// Sums over the block; all threads get the sums.
__device__ void block_sums(Mass (&sums)[SUMS], Room &room) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Mass sum = warp_sums(sums);
    __syncthreads();
    if (lane % 2 == 0) room[warp][lane / 2] = sum;
    __syncthreads();
    if (warp < SUMS) {
        sum = room[lane][warp];
        for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffff, sum, i);
        if (lane == 0) room[0][warp] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < SUMS; n++) sums[n] = room[0][n];
}

// A sum of masses, and of how many.
struct Two {
    Mass mass, count;
};

// Returns the sum over the threads before this one.
__device__ Mass sum_before(Mass mine, Mass (&room)[32]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Mass sum = mine;
    for (int i = 1; i < 32; i *= 2) {
        Mass other = __shfl_up_sync(0xffffffff, sum, i);
        if (lane >= i) sum += other;
    }
    __syncthreads();
    if (lane == 31) room[warp] = sum;
    __syncthreads();
    Mass before = 0;
    for (int w = 0; w < warp; w++) before += room[w];
    return before + sum - mine;
}

struct Logits {
    const float *logits;
    int vocab;
    float max, factor;
    __device__ float weight(int i) const { return expf((logits[i] - max) * factor); }
    static __device__ Mass mass(float weight) { return (Mass)(weight * 1099511627776.0f); } // 2^40
};

// Returns the largest weight, by its bits, for which those that are no smaller come to `needed`, each
// counted as one or as its mass.
__device__ uint32_t bar(const Logits &row, Mass needed, bool counted, Room &room) {
    uint32_t bits = 0;
    for (int shift = 28; shift >= 0; shift -= 4) {
        Mass sums[SUMS] = {};
        for (int i = threadIdx.x; i < row.vocab; i += DRAWERS) {
            float weight = row.weight(i);
            Mass mass = counted ? 1 : Logits::mass(weight);
            uint32_t key = __float_as_uint(weight);
#pragma unroll
            for (uint32_t n = 0; n < 15; n++) sums[n] += key >= (bits | (n + 1) << shift) ? mass : 0;
        }
        block_sums(sums, room);
        uint32_t digit = 0;
#pragma unroll
        for (uint32_t n = 0; n < 15; n++)
            if (sums[n] >= needed) digit = n + 1;
        bits |= digit << shift;
    }
    return bits;
}

extern "C" __global__ void __launch_bounds__(DRAWERS) draw(const float *logits, int vocab, const Rules *rules, uint32_t *tokens) {
    __shared__ float wide[32];
    __shared__ Room room;
    __shared__ Mass of_warps[32];
    __shared__ uint32_t found;
    Rules rule = rules[blockIdx.x];
    Logits row{logits + (size_t)blockIdx.x * vocab, vocab, 0, 0};
    float max = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += DRAWERS) max = fmaxf(max, row.logits[i]);
    row.max = block_max(max, wide);
    if (threadIdx.x == 0) found = rule.factor == 0 ? vocab : 0;
    __syncthreads();
    if (rule.factor == 0) {
        for (int i = threadIdx.x; i < vocab; i += DRAWERS)
            if (row.logits[i] == row.max) { atomicMin(&found, (uint32_t)i); break; }
        __syncthreads();
        // Where nothing equals the largest there are only NaN, which the caller finds out.
        if (threadIdx.x == 0) tokens[blockIdx.x] = found < (uint32_t)vocab ? found : 0;
        return;
    }
    row.factor = (float)fmin(rule.factor, 3.4028234e38);
    // What is kept: all above the bar, and of those at the bar the first `ties`.
    uint32_t at = 0;
    Mass ties = vocab;
    auto above = [&]() {
        Mass sums[SUMS] = {};
        for (int i = threadIdx.x; i < vocab; i += DRAWERS) {
            float weight = row.weight(i);
            if (__float_as_uint(weight) > at) sums[0] += Logits::mass(weight), sums[1] += 1;
        }
        block_sums(sums, room);
        return Two{sums[0], sums[1]};
    };
    if (rule.top_k >= 1 && rule.top_k < vocab) {
        Mass most = (Mass)rule.top_k;
        at = bar(row, most, true, room);
        ties = most - above().count;
    }
    if (rule.top_p < 1) {
        Two over = above();
        Mass each = Logits::mass(__uint_as_float(at)), all = over.mass;
        // Without a bar, what is at it weighs nothing.
        all += at > 0 ? ties * each : 0;
        Mass needed = (Mass)ceil(rule.top_p * (double)all);
        needed = needed < 1 ? 1 : needed > all ? all : needed;
        uint32_t before = at;
        Mass limit = ties;
        at = bar(row, needed, false, room);
        at = at > before ? at : before;
        Mass higher = above().mass;
        each = Logits::mass(__uint_as_float(at));
        ties = each == 0 ? 1 : (needed - higher + each - 1) / each;
        if (at == before && ties > limit) ties = limit;
    }
    // Each thread has some tokens in a row.
    int each = (vocab + DRAWERS - 1) / DRAWERS, first = threadIdx.x * each, end = min(vocab, first + each);
    Mass equal = 0;
    for (int i = first; i < end; i++) equal += __float_as_uint(row.weight(i)) == at;
    Mass tied = sum_before(equal, of_warps), mine = 0;
    auto kept = [&](int i, Mass &tie) {
        float weight = row.weight(i);
        uint32_t key = __float_as_uint(weight);
        return key > at || (key == at && tie++ < ties) ? Logits::mass(weight) : 0;
    };
    Mass tie = tied;
    for (int i = first; i < end; i++) mine += kept(i, tie);
    __syncthreads();
    Mass before = sum_before(mine, of_warps);
    Mass total[SUMS] = {mine};
    block_sums(total, room);
    Mass target = (Mass)(rule.uniform * (double)total[0]);
    target = target < total[0] ? target : total[0] - 1;
    if (before <= target && target < before + mine) {
        tie = tied;
        for (int i = first; i < end; i++) {
            before += kept(i, tie);
            if (before > target) { found = i; break; }
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) tokens[blockIdx.x] = found;
}
