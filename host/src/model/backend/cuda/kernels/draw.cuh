// Drawing a token from a row of logits; one block a row. The same rules as on the processor
// (`generate::sample`), but tokens that are left are drawn from in the order of their ids.
//
// Weights are added up as whole numbers, so their order does not matter.

typedef unsigned long long Mass;

constexpr int DRAWERS = 1024;
static_assert(LOGITS == 4 * DRAWERS, "a thread has four tokens of a part");

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

// Returns the sum over the threads before this one, and gives that over all.
__device__ Mass sum_before(Mass mine, Mass (&room)[32], Mass &all) {
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
    all = 0;
#pragma unroll
    for (int w = 0; w < 32; w++) {
        Mass of_warp = room[w];
        all += of_warp;
        before += w < warp ? of_warp : 0;
    }
    return before + sum - mine;
}

// All tokens of a row.
struct Logits {
    const float *logits;
    int count;
    float max, factor;
    __device__ float weight_of(float logit) const { return expf((logit - max) * factor); }
    __device__ float weight(int i) const { return weight_of(logits[i]); }
    __device__ uint32_t token(int i) const { return i; }
    static __device__ Mass mass(float weight) { return (Mass)(weight * 1099511627776.0f); } // 2^40
};

// Some tokens of a row, in the order of their ids.
struct Listed {
    const float *weights;
    const uint32_t *tokens;
    int count;
    __device__ float weight(int i) const { return weights[i]; }
    __device__ uint32_t token(int i) const { return tokens[i]; }
};

// Returns the largest weight, by its bits, for which those that are no smaller come to `needed`, each
// counted as one or as its mass.
template <typename Row> __device__ uint32_t bar(const Row &row, Mass needed, bool counted, Room &room) {
    uint32_t bits = 0;
    for (int shift = 28; shift >= 0; shift -= 4) {
        Mass sums[SUMS] = {};
        for (int i = threadIdx.x; i < row.count; i += DRAWERS) {
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

// What a block has found, and what it goes on with.
struct Found {
    uint32_t part, token;
    Mass left, mass;
};

// Takes the first of the largest. Where nothing equals it there are only NaN, which the caller finds out.
__device__ void take_largest(const Logits &row, const Part *parts, Found &found) {
    int count = parts_of(row.count);
    if (threadIdx.x == 0) found.part = found.token = UINT32_MAX;
    __syncthreads();
    for (int p = threadIdx.x; p < count; p += DRAWERS)
        if (parts[p].max == row.max) { atomicMin(&found.part, (uint32_t)p); break; }
    __syncthreads();
    int first = found.part < (uint32_t)count ? found.part * LOGITS : 0, end = min(row.count, first + LOGITS);
    for (int i = first + threadIdx.x; i < end; i += DRAWERS)
        if (row.logits[i] == row.max) { atomicMin(&found.token, (uint32_t)i); break; }
    __syncthreads();
    if (threadIdx.x == 0 && found.token == UINT32_MAX) found.token = 0;
}

// Draws from all tokens: first a part by what the parts weigh, then a token of it.
__device__ void draw_from_all(const Logits &row, const Part *parts, double uniform, Mass (&room)[32], Found &found) {
    if (threadIdx.x == 0) found = Found{0, 0, 0, 1};
    // Each thread has some parts in a row.
    int count = parts_of(row.count), each = (count + DRAWERS - 1) / DRAWERS;
    int first = min(count, int(threadIdx.x) * each), end = min(count, first + each);
    auto mass_of = [&](int p) {
        double below = ((double)parts[p].max - (double)row.max) * row.factor;
        double mass = exp(below) * parts[p].sums[MASS] * 1099511627776.0;
        return mass > 0 ? (Mass)mass : 0; // 0 for NaN
    };
    Mass mine = 0, all;
    for (int p = first; p < end; p++) mine += mass_of(p);
    Mass before = sum_before(mine, room, all), target = (Mass)(uniform * (double)all);
    target = target < all ? target : all - 1;
    if (before <= target && target < before + mine)
        for (int p = first; p < end; p++) {
            Mass mass = mass_of(p);
            if (target < before + mass) { found = Found{uint32_t(p), 0, target - before, mass}; break; }
            before += mass;
        }
    __syncthreads();
    Logits part = row;
    part.max = base_of(parts[found.part].max);
    int i = found.part * LOGITS + 4 * threadIdx.x;
    float4 x = four_of_row(row.logits, row.count, i);
    Mass masses[4] = {Logits::mass(part.weight_of(x.x)), Logits::mass(part.weight_of(x.y)),
                      Logits::mass(part.weight_of(x.z)), Logits::mass(part.weight_of(x.w))};
    mine = masses[0] + masses[1] + masses[2] + masses[3];
    before = sum_before(mine, room, all);
    // In the part weights are to its own largest.
    target = (Mass)((double)found.left / (double)found.mass * (double)all);
    target = target < all ? target : all - 1;
    if (before <= target && target < before + mine)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            if (before <= target && target < before + masses[n]) found.token = i + n;
            before += masses[n];
        }
}

// How much of a mass top-p keeps at least.
__device__ __forceinline__ Mass needed_of(const Rules &rule, Mass all) {
    Mass needed = (Mass)ceil(rule.top_p * (double)all);
    return needed < 1 ? 1 : needed > all ? all : needed;
}

// Draws from the tokens that the rules leave of a row; `whole` is the mass of all of the vocabulary.
template <typename Row>
__device__ void draw_from_some(const Row &row, const Rules &rule, bool keeps_few, Mass whole, Room &room,
                               Mass (&of_warps)[32], uint32_t &found) {
    // What is kept: all above the bar, and of those at the bar the first `ties`.
    uint32_t at = 0;
    Mass ties = row.count;
    auto above = [&]() {
        Mass sums[SUMS] = {};
        for (int i = threadIdx.x; i < row.count; i += DRAWERS) {
            float weight = row.weight(i);
            if (__float_as_uint(weight) > at) sums[0] += Logits::mass(weight), sums[1] += 1;
        }
        block_sums(sums, room);
        return Two{sums[0], sums[1]};
    };
    if (keeps_few) {
        Mass most = (Mass)rule.top_k;
        at = bar(row, most, true, room);
        ties = most - above().count;
    }
    if (rule.top_p < 1) {
        Mass each = Logits::mass(__uint_as_float(at)), all = keeps_few ? above().mass + ties * each : whole;
        Mass needed = needed_of(rule, all);
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
    int each = (row.count + DRAWERS - 1) / DRAWERS, first = threadIdx.x * each, end = min(row.count, first + each);
    Mass equal = 0;
    for (int i = first; i < end; i++) equal += __float_as_uint(row.weight(i)) == at;
    Mass all, tied = sum_before(equal, of_warps, all), mine = 0;
    auto kept = [&](int i, Mass &tie) {
        float weight = row.weight(i);
        uint32_t key = __float_as_uint(weight);
        return key > at || (key == at && tie++ < ties) ? Logits::mass(weight) : 0;
    };
    Mass tie = tied;
    for (int i = first; i < end; i++) mine += kept(i, tie);
    Mass before = sum_before(mine, of_warps, all);
    Mass target = (Mass)(rule.uniform * (double)all);
    target = target < all ? target : all - 1;
    if (before <= target && target < before + mine) {
        tie = tied;
        for (int i = first; i < end; i++) {
            before += kept(i, tie);
            if (before > target) { found = row.token(i); break; }
        }
    }
}

// Tokens that are listed at most, and how light they may be: powers of two, of which the heaviest is taken that
// leaves all the rules may keep.
constexpr int LISTED = 4 * DRAWERS, BOUNDS = (SUMS - 1) / 2;
__device__ __forceinline__ float bound(int n) { return 1.0f / (1ull << ((n + 2) * (n + 3) / 2 - 1)); }

// Lists the tokens that may be kept. Returns how many; 0 where they are too many. Gives the mass of all.
__device__ int list(const Logits &row, const Rules &rule, bool keeps_few, Room &room, Mass (&of_warps)[32],
                    float *weights, uint32_t *tokens, Mass &whole) {
    // Each thread has some tokens in a row, by fours.
    int each = (row.count + LISTED - 1) / LISTED * 4;
    int first = min(row.count, int(threadIdx.x) * each), end = min(row.count, first + each);
    auto go_over = [&](auto &&act) {
        for (int i = first; i < end; i += 4) {
            float4 x = four_of_row(row.logits, row.count, i);
            act(i, row.weight_of(x.x)), act(i + 1, row.weight_of(x.y));
            act(i + 2, row.weight_of(x.z)), act(i + 3, row.weight_of(x.w));
        }
    };
    // The mass of all and that from each bound on, and how many these are.
    Mass sums[SUMS] = {};
    uint32_t counts[BOUNDS] = {};
    go_over([&](int, float weight) {
        Mass mass = Logits::mass(weight);
        sums[0] += mass;
#pragma unroll
        for (int n = 0; n < BOUNDS; n++)
            if (weight >= bound(n)) sums[1 + n] += mass, counts[n]++;
    });
#pragma unroll
    for (int n = 0; n < BOUNDS; n++) sums[1 + BOUNDS + n] = counts[n];
    block_sums(sums, room);
    whole = sums[0];
    Mass needed = keeps_few ? 0 : needed_of(rule, whole), mine = 0, count = 0;
    float from = 0;
#pragma unroll
    for (int n = BOUNDS - 1; n >= 0; n--) {
        bool enough = keeps_few ? sums[1 + BOUNDS + n] >= (Mass)rule.top_k : sums[1 + n] >= needed;
        if (enough) from = bound(n), count = sums[1 + BOUNDS + n], mine = counts[n];
    }
    if (count == 0 || count > LISTED) return 0;
    Mass all, at = sum_before(mine, of_warps, all);
    go_over([&](int i, float weight) {
        if (weight >= from) weights[at] = weight, tokens[at] = i, at++;
    });
    __syncthreads();
    return (int)count;
}

extern "C" __global__ void __launch_bounds__(DRAWERS)
    draw(const float *logits, int vocab, const Rules *rules, const Part *parts, uint32_t *tokens) {
    __shared__ float wide[32];
    __shared__ Room room;
    __shared__ Mass of_warps[32];
    __shared__ uint32_t found;
    __shared__ Found plain;
    __shared__ float weights[LISTED];
    __shared__ uint32_t ids[LISTED];
    Rules rule = rules[blockIdx.x];
    Logits row{logits + (size_t)blockIdx.x * vocab, vocab, 0, 0};
    int count = parts_of(vocab);
    parts += (size_t)blockIdx.x * count;
    float max = -INFINITY;
    for (int p = threadIdx.x; p < count; p += DRAWERS) max = fmaxf(max, parts[p].max);
    row.max = block_max(max, wide);
    row.factor = factor_of(rule);
    if (rule.factor == 0 || !leaves_out(rule, vocab)) {
        if (rule.factor == 0) take_largest(row, parts, plain);
        else draw_from_all(row, parts, rule.uniform, of_warps, plain);
        __syncthreads();
        if (threadIdx.x == 0) tokens[blockIdx.x] = plain.token;
        return;
    }
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    bool keeps_few = rule.top_k >= 1 && rule.top_k < vocab;
    Mass whole;
    int listed = list(row, rule, keeps_few, room, of_warps, weights, ids, whole);
    if (listed) draw_from_some(Listed{weights, ids, listed}, rule, keeps_few, whole, room, of_warps, found);
    else draw_from_some(row, rule, keeps_few, whole, room, of_warps, found);
    __syncthreads();
    if (threadIdx.x == 0) tokens[blockIdx.x] = found;
}
