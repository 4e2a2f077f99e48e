// Operations on single rows and single numbers, forward and backward.

// y = scale * x, rounded to bf16.
KERNEL to_bf16(const float *x, float scale, size_t len, __nv_bfloat16 *y) {
    if (by_four(len, x, y)) {
        EACH(i, len / 4) {
            float4 a = four(x, i);
            put_four(y, i, make_float4(scale * a.x, scale * a.y, scale * a.z, scale * a.w));
        }
        return;
    }
    EACH(i, len) y[i] = __float2bfloat16_rn(scale * x[i]);
}

KERNEL from_bf16(const __nv_bfloat16 *x, size_t len, float *y) {
    EACH(i, len) y[i] = __bfloat162float(x[i]);
}

KERNEL add_scaled(const float *x, float scale, size_t len, float *y, int add) {
    if (by_four(len, x, y)) {
        EACH(i, len / 4) {
            float4 a = four(x, i), b = add ? four(y, i) : make_float4(0, 0, 0, 0);
            four(y, i) = add ? make_float4(b.x + scale * a.x, b.y + scale * a.y, b.z + scale * a.z, b.w + scale * a.w)
                             : make_float4(scale * a.x, scale * a.y, scale * a.z, scale * a.w);
        }
        return;
    }
    EACH(i, len) y[i] = add ? y[i] + scale * x[i] : scale * x[i];
}

template <typename T>
__device__ void embed(const T *embedding, const uint32_t *tokens, int width, size_t len, float *y) {
    EACH(i, len) y[i] = (float)embedding[(size_t)tokens[i / width] * width + i % width];
}

KERNEL embed_f32(const float *e, const uint32_t *tokens, int width, size_t len, float *y) {
    embed(e, tokens, width, len, y);
}

KERNEL embed_bf16(const __nv_bfloat16 *e, const uint32_t *tokens, int width, size_t len, float *y) {
    embed(e, tokens, width, len, y);
}

template <typename T> __device__ void add_bias_to(const float *bias, int width, size_t len, T *y) {
    EACH(i, len) y[i] = (T)((float)y[i] + bias[i % width]);
}

KERNEL add_bias(const float *bias, int width, size_t len, float *y) { add_bias_to(bias, width, len, y); }

template <typename T> __device__ void gather_rows(const T *x, int width, const uint32_t *rows, size_t len, T *y) {
    EACH(i, len) y[i] = x[(size_t)rows[i / width] * width + i % width];
}

KERNEL gather(const float *x, int width, const uint32_t *rows, size_t len, float *y) {
    gather_rows(x, width, rows, len, y);
}

// `y` is zero before.
KERNEL scatter(const float *x, int width, const uint32_t *rows, size_t len, float *y) {
    EACH(i, len) y[(size_t)rows[i / width] * width + i % width] = x[i];
}

KERNEL scale_rows(float *x, int width, const float *factors, size_t len) {
    EACH(i, len) x[i] *= factors[i / width];
}

// A group of threads has one row: a warp where rows are narrow, else a block.
struct Row {
    int row, first, step;
};

__device__ __forceinline__ Row my_row(int warps) {
    if (warps) return Row{int(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), int(threadIdx.x % 32), 32};
    return Row{int(blockIdx.x), int(threadIdx.x), int(blockDim.x)};
}

__device__ __forceinline__ float row_sum(float x, int warps, float *room) {
    return warps ? warp_sum(x) : block_sum(x, room);
}

template <typename T>
__device__ __forceinline__ float inverse_rms(const T *x, int width, float eps, Row at, int warps, float *room) {
    float sum = 0;
    for (int i = at.first; i < width; i += at.step) sum = fmaf((float)x[i], (float)x[i], sum);
    return 1.0f / sqrtf(row_sum(sum, warps, room) / width + eps);
}

// Reads or writes four numbers of a row, where it is not `WHOLE` up to its end.
template <bool WHOLE, typename T> __device__ __forceinline__ float4 four_at(const T *x, int width, int i) {
    if (WHOLE) return get_four(x, i / 4);
    auto at = [&](int i) { return i < width ? (float)x[i] : 0; };
    return make_float4(at(i), at(i + 1), at(i + 2), at(i + 3));
}

template <bool WHOLE, typename T> __device__ __forceinline__ void put_four_at(T *y, int width, int i, float4 a) {
    if (WHOLE) return put_four(y, i / 4, a);
    y[i] = (T)a.x;
    if (i + 1 < width) y[i + 1] = (T)a.y;
    if (i + 2 < width) y[i + 2] = (T)a.z;
    if (i + 3 < width) y[i + 3] = (T)a.w;
}

// A thread reads so many fours of a row once, with their weights; what is beyond them twice.
constexpr int KEPT = 2;

template <bool WHOLE, typename X, typename Y>
__device__ __forceinline__ void normalise(const X *x, int width, const float *weight, float eps, Y *y, Row at,
                                          int warps, float *room) {
    float4 kept[KEPT], weights[KEPT];
#pragma unroll
    for (int n = 0; n < KEPT; n++) {
        int i = 4 * (at.first + n * at.step);
        kept[n] = weights[n] = make_float4(0, 0, 0, 0);
        if (i < width) kept[n] = four_at<WHOLE>(x, width, i), weights[n] = four_at<WHOLE>(weight, width, i);
    }
    float sum = 0;
    auto add = [&](float4 a) { sum = fmaf(a.x, a.x, fmaf(a.y, a.y, fmaf(a.z, a.z, fmaf(a.w, a.w, sum)))); };
#pragma unroll
    for (int n = 0; n < KEPT; n++) add(kept[n]);
    int rest = 4 * (at.first + KEPT * at.step);
#pragma unroll 1
    for (int i = rest; i < width; i += 4 * at.step) add(four_at<WHOLE>(x, width, i));
    sum = warp_sum(sum);
    if (!warps) {
        if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = 0;
        for (int w = 0; w < blockDim.x / 32; w++) sum += room[w];
    }
    float scale = 1.0f / sqrtf(sum / width + eps);
    auto put = [&](int i, float4 a, float4 b) {
        a = make_float4(a.x * scale * b.x, a.y * scale * b.y, a.z * scale * b.z, a.w * scale * b.w);
        put_four_at<WHOLE>(y, width, i, a);
    };
#pragma unroll
    for (int n = 0; n < KEPT; n++) {
        int i = 4 * (at.first + n * at.step);
        if (i < width) put(i, kept[n], weights[n]);
    }
#pragma unroll 1
    for (int i = rest; i < width; i += 4 * at.step)
        put(i, four_at<WHOLE>(x, width, i), four_at<WHOLE>(weight, width, i));
}

template <typename X, typename Y>
__device__ void norm_row(const X *x, int rows, int width, const float *weight, float eps, Y *y, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    size_t start = (size_t)at.row * width;
    // Both add up in the same order.
    if (by_four(width, x, weight, y)) normalise<true>(x + start, width, weight, eps, y + start, at, warps, room);
    else normalise<false>(x + start, width, weight, eps, y + start, at, warps, room);
}

KERNEL rms_norm(const float *x, int rows, int width, const float *weight, float eps, float *y, int warps) {
    norm_row(x, rows, width, weight, eps, y, warps);
}

template <typename T>
__device__ void norm_row_backward(const T *dy, const T *x, int rows, int width, const float *weight, float eps, T *dx,
                                  int add, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    size_t start = (size_t)at.row * width;
    dy += start, x += start, dx += start;
    float inverse = inverse_rms(x, width, eps, at, warps, room);
    float along = 0;
    for (int i = at.first; i < width; i += at.step) along = fmaf((float)dy[i] * weight[i], (float)x[i], along);
    along = row_sum(along, warps, room);
    float back = along * inverse * inverse * inverse / width;
    for (int i = at.first; i < width; i += at.step) {
        float gradient = (float)dy[i] * weight[i] * inverse - (float)x[i] * back;
        dx[i] = (T)(add ? (float)dx[i] + gradient : gradient);
    }
}

KERNEL rms_norm_backward(const float *dy, const float *x, int rows, int width, const float *weight, float eps,
                         float *dx, int add, int warps) {
    norm_row_backward(dy, x, rows, width, weight, eps, dx, add, warps);
}

// 1 / sqrt(mean(x^2) + eps) of each row.
template <typename T> __device__ void inverse_rms_of(const T *x, int rows, int width, float eps, float *y, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    float scale = inverse_rms(x + (size_t)at.row * width, width, eps, at, warps, room);
    if (at.first == 0) y[at.row] = scale;
}

KERNEL inverse_rms_of_rows(const float *x, int rows, int width, float eps, float *y, int warps) {
    inverse_rms_of(x, rows, width, eps, y, warps);
}

// `len` counts pairs of numbers.
template <typename T>
__device__ void rotate(T *x, int heads, int head_dim, const uint32_t *positions, const float *cos, const float *sin,
                       float sign, size_t len) {
    int half = head_dim / 2;
    EACH(i, len) {
        int d = i % half;
        size_t head = i / half, row = head / heads;
        size_t table = (size_t)positions[row] * half + d;
        T *low = x + head * head_dim + d, *high = low + half;
        float a = *low, b = *high, c = cos[table], s = sign * sin[table];
        *low = (T)(a * c - b * s);
        *high = (T)(b * c + a * s);
    }
}

KERNEL rope(float *x, int heads, int head_dim, const uint32_t *positions, const float *cos, const float *sin,
            float sign, size_t len) {
    rotate(x, heads, head_dim, positions, cos, sin, sign, len);
}

__device__ __forceinline__ float silu_times(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

template <typename X, typename Y> __device__ void silu_and_times(const X *gate, const X *up, size_t len, Y *y) {
    if (by_four(len, gate, up, y)) {
        EACH(i, len / 4) {
            float4 a = get_four(gate, i), b = get_four(up, i);
            put_four(y, i, make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z),
                                       silu_times(a.w, b.w)));
        }
        return;
    }
    EACH(i, len) y[i] = (Y)silu_times(gate[i], up[i]);
}

KERNEL swiglu(const float *gate, const float *up, size_t len, float *y) { silu_and_times(gate, up, len, y); }

__device__ __forceinline__ void gate_and_up(float d, float gate, float up, float &dgate, float &dup) {
    float sigmoid = 1.0f / (1.0f + expf(-gate));
    float slope = sigmoid * fmaf(gate, 1.0f - sigmoid, 1.0f);
    dgate = d * up * slope;
    dup = d * gate * sigmoid;
}

template <typename T>
__device__ void silu_and_times_backward(const T *dy, const T *gate, const T *up, size_t len, T *dgate, T *dup) {
    if (by_four(len, gate, up, dy) && by_four(len, dgate, dup)) {
        EACH(i, len / 4) {
            float4 d = get_four(dy, i), a = get_four(gate, i), b = get_four(up, i), da, db;
            gate_and_up(d.x, a.x, b.x, da.x, db.x);
            gate_and_up(d.y, a.y, b.y, da.y, db.y);
            gate_and_up(d.z, a.z, b.z, da.z, db.z);
            gate_and_up(d.w, a.w, b.w, da.w, db.w);
            put_four(dgate, i, da);
            put_four(dup, i, db);
        }
        return;
    }
    EACH(i, len) {
        float da, db;
        gate_and_up(dy[i], gate[i], up[i], da, db);
        dgate[i] = (T)da, dup[i] = (T)db;
    }
}

KERNEL swiglu_backward(const float *dy, const float *gate, const float *up, size_t len, float *dgate, float *dup) {
    silu_and_times_backward(dy, gate, up, len, dgate, dup);
}

// As `run::seed::uniform`.
__device__ __forceinline__ double uniform(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * (1.0 / 9007199254740992.0);
}

// `starts[i]` is the first number of draw `i`; `starts[draws]` is `len`.
template <typename X, typename Y>
__device__ void drop(const X *x, const uint64_t *starts, const uint64_t *seeds, int draws, double rate, float keep,
                     size_t len, Y *y, int add) {
    EACH(i, len) {
        int low = 0, high = draws;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (starts[middle] <= i) low = middle; else high = middle;
        }
        float value = uniform(seeds[low], i - starts[low]) >= rate ? keep * (float)x[i] : 0.0f;
        y[i] = (Y)(add ? (float)y[i] + value : value);
    }
}

KERNEL dropout(const float *x, const uint64_t *starts, const uint64_t *seeds, int draws, double rate, float keep,
               size_t len, float *y, int add) {
    drop(x, starts, seeds, draws, rate, keep, len, y, add);
}
