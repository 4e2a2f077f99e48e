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

// The same into rows that lie `pitch` numbers apart; a block has a row.
KERNEL to_bf16_rows(const float *x, float scale, int width, Half *y, int pitch) {
    x += (size_t)blockIdx.x * width, y += (size_t)blockIdx.x * pitch;
    if (by_four(width, x, y)) {
        for (int i = threadIdx.x; i < width / 4; i += blockDim.x) {
            float4 a = four(x, i);
            put_four(y, i, make_float4(scale * a.x, scale * a.y, scale * a.z, scale * a.w));
        }
        return;
    }
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[i] = __float2bfloat16_rn(scale * x[i]);
}

// Copies rows of `width` times 8 numbers to rows that lie `pitch` numbers apart; `len` counts eights.
KERNEL put_beside(const Half *x, int width, size_t len, Half *y, int pitch) {
    EACH(i, len) {
        uint32_t row = (uint32_t)i / width, eight = (uint32_t)i % width;
        *reinterpret_cast<uint4 *>(y + (size_t)row * pitch + eight * 8) = reinterpret_cast<const uint4 *>(x)[i];
    }
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

__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 warp_sum(float2 x) { return make_float2(warp_sum(x.x), warp_sum(x.y)); }

// The sum over the threads of a row, for each of them. `room` has a place for each warp.
template <typename T> __device__ __forceinline__ T sum_of_row(T x, int warps, T *room) {
    x = warp_sum(x);
    if (warps) return x;
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int w = 1; w < blockDim.x / 32; w++) x = plus(x, room[w]);
    return x;
}

// sum + a · b
__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

__device__ __forceinline__ float4 times(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

template <bool WHOLE, typename X, typename Y>
__device__ __forceinline__ void normalise(const X *x, int width, const float *weight, float eps, Y *y, Row at,
                                          int warps, float *room) {
    float4 kept[KEPT], weights[KEPT];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < KEPT; n++) {
        int i = 4 * (at.first + n * at.step);
        kept[n] = weights[n] = make_float4(0, 0, 0, 0);
        if (i < width) kept[n] = four_at<WHOLE>(x, width, i), weights[n] = four_at<WHOLE>(weight, width, i);
    }
#pragma unroll
    for (int n = 0; n < KEPT; n++) sum = dot(kept[n], kept[n], sum);
    int rest = 4 * (at.first + KEPT * at.step);
#pragma unroll 1
    for (int i = rest; i < width; i += 4 * at.step) {
        float4 a = four_at<WHOLE>(x, width, i);
        sum = dot(a, a, sum);
    }
    float scale = 1.0f / sqrtf(sum_of_row(sum, warps, room) / width + eps);
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

// Rows of `y` lie `pitch` numbers apart.
template <typename X, typename Y>
__device__ void norm_row(const X *x, int rows, int width, const float *weight, float eps, Y *y, int pitch, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    x += (size_t)at.row * width, y += (size_t)at.row * pitch;
    // Both add up in the same order.
    if (by_four(width, x, weight, y)) normalise<true>(x, width, weight, eps, y, at, warps, room);
    else normalise<false>(x, width, weight, eps, y, at, warps, room);
}

KERNEL rms_norm(const float *x, int rows, int width, const float *weight, float eps, float *y, int pitch,
                int warps) {
    norm_row(x, rows, width, weight, eps, y, pitch, warps);
}

// dx = or += dy * weight * inverse - x * back, where x * inverse * weight is the norm, and `back` is what all numbers
// of a row lose where one grows.
template <bool WHOLE, typename T>
__device__ __forceinline__ void normalise_backward(const T *dy, const T *x, int width, const float *weight, float eps,
                                                   T *dx, int add, Row at, int warps, float2 *room) {
    // Of x, and of dy times the weight.
    float4 kept[KEPT], scaled[KEPT];
    float squares = 0, along = 0;
    auto read = [&](int i, float4 &a, float4 &d) {
        a = four_at<WHOLE>(x, width, i);
        d = times(four_at<WHOLE>(dy, width, i), four_at<WHOLE>(weight, width, i));
    };
#pragma unroll
    for (int n = 0; n < KEPT; n++) {
        int i = 4 * (at.first + n * at.step);
        kept[n] = scaled[n] = make_float4(0, 0, 0, 0);
        if (i < width) read(i, kept[n], scaled[n]);
    }
    auto sum = [&](float4 a, float4 d) { squares = dot(a, a, squares), along = dot(a, d, along); };
#pragma unroll
    for (int n = 0; n < KEPT; n++) sum(kept[n], scaled[n]);
    int rest = 4 * (at.first + KEPT * at.step);
    float4 a, d;
#pragma unroll 1
    for (int i = rest; i < width; i += 4 * at.step) read(i, a, d), sum(a, d);
    float2 sums = sum_of_row(make_float2(squares, along), warps, room);
    float inverse = 1.0f / sqrtf(sums.x / width + eps), back = sums.y * inverse * inverse * inverse / width;
    auto put = [&](int i, float4 a, float4 d) {
        float4 before = add ? four_at<WHOLE>(dx, width, i) : make_float4(0, 0, 0, 0);
        auto own = [&](float d, float a) { return d * inverse - a * back; };
        put_four_at<WHOLE>(dx, width, i, make_float4(before.x + own(d.x, a.x), before.y + own(d.y, a.y),
                                                     before.z + own(d.z, a.z), before.w + own(d.w, a.w)));
    };
#pragma unroll
    for (int n = 0; n < KEPT; n++) {
        int i = 4 * (at.first + n * at.step);
        if (i < width) put(i, kept[n], scaled[n]);
    }
#pragma unroll 1
    for (int i = rest; i < width; i += 4 * at.step) read(i, a, d), put(i, a, d);
}

template <typename T>
__device__ void norm_row_backward(const T *dy, const T *x, int rows, int width, const float *weight, float eps, T *dx,
                                  int add, int warps) {
    __shared__ float2 room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    size_t start = (size_t)at.row * width;
    dy += start, x += start, dx += start;
    if (by_four(width, dy, x, dx) && by_four(width, weight))
        normalise_backward<true>(dy, x, width, weight, eps, dx, add, at, warps, room);
    else normalise_backward<false>(dy, x, width, weight, eps, dx, add, at, warps, room);
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

// The numbers of an array of `len` that this thread has: every `step`th from `first` on.
struct Span {
    size_t first, step, len;
};

// All of the grid's threads share an array.
__device__ __forceinline__ Span of_grid(size_t len) {
    return Span{blockIdx.x * (size_t)blockDim.x + threadIdx.x, gridDim.x * (size_t)blockDim.x, len};
}

template <typename X, typename Y> __device__ void silu_and_times(const X *gate, const X *up, Span at, Y *y) {
    if (by_four(at.len, gate, up, y)) {
        for (size_t i = at.first; i < at.len / 4; i += at.step) {
            float4 a = get_four(gate, i), b = get_four(up, i);
            put_four(y, i, make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z),
                                       silu_times(a.w, b.w)));
        }
        return;
    }
    for (size_t i = at.first; i < at.len; i += at.step) y[i] = (Y)silu_times(gate[i], up[i]);
}

KERNEL swiglu(const float *gate, const float *up, size_t len, float *y) { silu_and_times(gate, up, of_grid(len), y); }

__device__ __forceinline__ void gate_and_up(float d, float gate, float up, float &dgate, float &dup) {
    float sigmoid = 1.0f / (1.0f + expf(-gate));
    float slope = sigmoid * fmaf(gate, 1.0f - sigmoid, 1.0f);
    dgate = d * up * slope;
    dup = d * gate * sigmoid;
}

template <typename T>
__device__ void silu_and_times_backward(const T *dy, const T *gate, const T *up, Span at, T *dgate, T *dup) {
    if (by_four(at.len, gate, up, dy) && by_four(at.len, dgate, dup)) {
        for (size_t i = at.first; i < at.len / 4; i += at.step) {
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
    for (size_t i = at.first; i < at.len; i += at.step) {
        float da, db;
        gate_and_up(dy[i], gate[i], up[i], da, db);
        dgate[i] = (T)da, dup[i] = (T)db;
    }
}

KERNEL swiglu_backward(const float *dy, const float *gate, const float *up, size_t len, float *dgate, float *dup) {
    silu_and_times_backward(dy, gate, up, of_grid(len), dgate, dup);
}

// As `run::seed::uniform`.
__device__ __forceinline__ double uniform(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * (1.0 / 9007199254740992.0);
}

// `starts[i]` is the first number of draw `i`; `starts[draws]` is `len`. Rows of `x` lie `pitch` numbers apart.
template <typename X, typename Y>
__device__ void drop(const X *x, int width, int pitch, const uint64_t *starts, const uint64_t *seeds, int draws,
                     double rate, float keep, size_t len, Y *y, int add) {
    EACH(i, len) {
        int low = 0, high = draws;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (starts[middle] <= i) low = middle; else high = middle;
        }
        size_t at = pitch == width ? i : i / width * pitch + i % width;
        float value = uniform(seeds[low], i - starts[low]) >= rate ? keep * (float)x[at] : 0.0f;
        y[i] = (Y)(add ? (float)y[i] + value : value);
    }
}

KERNEL dropout(const float *x, int width, int pitch, const uint64_t *starts, const uint64_t *seeds, int draws,
               double rate, float keep, size_t len, float *y, int add) {
    drop(x, width, pitch, starts, seeds, draws, rate, keep, len, y, add);
}
