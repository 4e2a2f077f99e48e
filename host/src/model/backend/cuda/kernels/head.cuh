// What the output head says of targets, from rows of logits.

// Numbers for each row: log-probability of the target, log of the sum of exponentials, entropy, mean of the logits.
static constexpr int SAID = 4;

KERNEL logprobs(const float *logits, int vocab, const uint32_t *targets, float *said) {
    __shared__ float room[32];
    __shared__ double wide[32];
    logits += (size_t)blockIdx.x * vocab;
    float max = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) max = fmaxf(max, logits[i]);
    max = block_max(max, room);
    float sum = 0, weighted = 0, total = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        total += logits[i];
        // Far below the maximum the product with the exponential must be 0, not -inf times 0.
        float x = logits[i] - max;
        x = x < -200.0f ? -200.0f : x;
        float e = expf(x);
        sum += e;
        weighted = fmaf(e, x, weighted);
    }
    double all = block_sum((double)sum, wide);
    double mean = block_sum((double)weighted, wide) / all;
    double mean_logit = block_sum((double)total, wide) / vocab;
    if (threadIdx.x == 0) {
        double log_sum = (double)max + log(all);
        double logprob = (double)logits[targets[blockIdx.x]] - log_sum;
        double entropy = log(all) - mean;
        said += SAID * (size_t)blockIdx.x;
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
