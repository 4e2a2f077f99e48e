// What the output head says of targets, from rows of logits.

// Numbers for each row: log-probability of the target, log of the sum of exponentials, entropy, mean of the logits.
static constexpr int SAID = 4;

// How a token is drawn.
struct Rules {
    double factor; // 1 / temperature; 0 takes the largest
    double top_p, top_k, uniform;
};

// Whether some tokens are left out of a draw.
__device__ __forceinline__ bool leaves_out(const Rules &rule, int vocab) {
    return (rule.top_k >= 1 && rule.top_k < vocab) || rule.top_p < 1;
}

__device__ __forceinline__ float factor_of(const Rules &rule) { return (float)fmin(rule.factor, 3.4028234e38); }

// A row of logits is cut into parts, of which a block has one: few rows keep the whole card busy too. Where it is
// cut depends on the size of the vocabulary alone, so a row's numbers do not depend on the other rows.
constexpr int LOGITS = 4096, READERS = 256, EACH_READS = LOGITS / READERS;

__device__ __forceinline__ int parts_of(int vocab) { return (vocab + LOGITS - 1) / LOGITS; }

// What a part comes to. Exponentials are of the difference to its own largest logit, or to 0 where that is -inf.
struct Part {
    float max, sums[4];
};

// Its sums: exponentials, these times their exponents, logits, and the weights that a token is drawn by where none is
// left out.
enum { EXPONENTIALS, WEIGHTED, TOTAL, MASS };

__device__ __forceinline__ float base_of(float max) { return max == -INFINITY ? 0.0f : max; }

// Reads four logits of a row, -inf beyond its end.
__device__ __forceinline__ float4 four_of_row(const float *row, int vocab, int i) {
    if (i + 3 < vocab && by_four(vocab, row)) return four(row, i / 4);
    float4 x;
    x.x = i + 0 < vocab ? row[i + 0] : -INFINITY;
    x.y = i + 1 < vocab ? row[i + 1] : -INFINITY;
    x.z = i + 2 < vocab ? row[i + 2] : -INFINITY;
    x.w = i + 3 < vocab ? row[i + 3] : -INFINITY;
    return x;
}

// Block (row, part). `rules` is null where no token is drawn. Each number is read once.
extern "C" __global__ void __launch_bounds__(READERS)
    logit_parts(const float *logits, int vocab, const Rules *rules, Part *parts) {
    __shared__ float room[32];
    __shared__ float of_warps[4][READERS / 32];
    size_t row = blockIdx.x;
    logits += row * vocab;
    int first = blockIdx.y * LOGITS + 4 * threadIdx.x;
    float x[EACH_READS];
    float max = -INFINITY;
    auto keep = [&](int n, float4 a) { x[n] = a.x, x[n + 1] = a.y, x[n + 2] = a.z, x[n + 3] = a.w; };
    if (by_four(vocab, logits) && (blockIdx.y + 1) * LOGITS <= vocab) {
#pragma unroll
        for (int n = 0; n < EACH_READS; n += 4) keep(n, four(logits, (first + READERS * n) / 4));
    } else {
#pragma unroll
        for (int n = 0; n < EACH_READS; n += 4) keep(n, four_of_row(logits, vocab, first + READERS * n));
    }
    float factor = 0;
    if (rules) {
        Rules rule = rules[row];
        factor = leaves_out(rule, vocab) ? 0.0f : factor_of(rule);
    }
#pragma unroll
    for (int n = 0; n < EACH_READS; n++) max = fmaxf(max, x[n]);
    max = block_max(max, room);
    float base = base_of(max), sums[4] = {};
#pragma unroll
    for (int n = 0; n < EACH_READS; n++) {
        if (first + READERS * (n / 4 * 4) + n % 4 < vocab) sums[TOTAL] += x[n];
        // Far below the largest the product with the exponential must be 0, not -inf times 0.
        float y = x[n] - base;
        y = y < -200.0f ? -200.0f : y;
        float e = expf(y);
        sums[EXPONENTIALS] += e;
        sums[WEIGHTED] = fmaf(e, y, sums[WEIGHTED]);
    }
    if (factor != 0 && factor != 1) {
#pragma unroll
        for (int n = 0; n < EACH_READS; n++) sums[MASS] += expf((x[n] - base) * factor);
    } else if (factor == 1)
        sums[MASS] = sums[EXPONENTIALS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float sum = warp_sum(sums[n]);
        if (lane == 0) of_warps[n][warp] = sum;
    }
    __syncthreads();
    Part &part = parts[row * gridDim.y + blockIdx.y];
    if (threadIdx.x < 4) {
        double sum = 0;
        for (int w = 0; w < READERS / 32; w++) sum += of_warps[threadIdx.x][w];
        part.sums[threadIdx.x] = (float)sum;
    }
    if (threadIdx.x == 4) part.max = max;
}

// A warp has a row, and adds up its parts.
KERNEL logprobs(const float *logits, int vocab, const uint32_t *targets, const Part *parts, float *said) {
    size_t row = blockIdx.x;
    int count = parts_of(vocab), lane = threadIdx.x;
    parts += row * count;
    float max = -INFINITY;
    for (int p = lane; p < count; p += 32) max = fmaxf(max, parts[p].max);
    max = warp_max(max);
    double all = 0, weighted = 0, total = 0;
    for (int p = lane; p < count; p += 32) {
        Part part = parts[p];
        // From -inf on nothing is left of a part, but a NaN.
        double below = part.max == -INFINITY ? -1e4 : (double)part.max - (double)max, scale = exp(below);
        all += scale * part.sums[EXPONENTIALS];
        weighted += scale * (part.sums[WEIGHTED] + below * part.sums[EXPONENTIALS]);
        total += part.sums[TOTAL];
    }
    all = warp_sum(all);
    double mean = warp_sum(weighted) / all;
    double mean_logit = warp_sum(total) / vocab;
    if (lane == 0) {
        double log_sum = (double)max + log(all);
        double logprob = (double)logits[row * vocab + targets[row]] - log_sum;
        double entropy = log(all) - mean;
        said += SAID * row;
        // Rounding may lift it over 0; a NaN must stay one.
        said[0] = logprob > 0.0 ? 0.0f : (float)logprob;
        said[1] = (float)log_sum;
        said[2] = entropy < 0.0 ? 0.0f : (float)entropy;
        said[3] = (float)mean_logit;
    }
}

template <typename T>
__device__ void logit_gradient(const float *logits, int vocab, const uint32_t *targets, const float *weights,
                               const float *said, T *y) {
    size_t row = blockIdx.y;
    float weight = weights[row], log_sum = said[SAID * row + 1];
    int target = targets[row];
    logits += row * vocab, y += row * vocab;
    EACH(i, (size_t)vocab) {
        float gradient = expf(logits[i] - log_sum) * -weight;
        y[i] = (T)(i == target ? gradient + weight : gradient);
    }
}

// The gradient of the sum of weight * logprob with respect to the logits; may be in place.
KERNEL logit_gradient_f32(const float *logits, int vocab, const uint32_t *targets, const float *weights,
                          const float *said, float *y) {
    logit_gradient(logits, vocab, targets, weights, said, y);
}

KERNEL logit_gradient_bf16(const float *logits, int vocab, const uint32_t *targets, const float *weights,
                           const float *said, __nv_bfloat16 *y) {
    logit_gradient(logits, vocab, targets, weights, said, y);
}
