// Operations on single rows and single numbers, forward and backward.

// y = scale * x, rounded to bf16.
KERNEL to_bf16(const float *x, float scale, size_t len, __nv_bfloat16 *y) {
    if (by_four(len, x, y)) {
        EACH(i, len / 4) {
            float4 a = four(x, i);
            __nv_bfloat162 low = __floats2bfloat162_rn(scale * a.x, scale * a.y);
            __nv_bfloat162 high = __floats2bfloat162_rn(scale * a.z, scale * a.w);
            uint2 both = make_uint2(*reinterpret_cast<uint32_t *>(&low), *reinterpret_cast<uint32_t *>(&high));
            reinterpret_cast<uint2 *>(y)[i] = both;
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

KERNEL add_bias(const float *bias, int width, size_t len, float *y) {
    EACH(i, len) y[i] += bias[i % width];
}

KERNEL gather(const float *x, int width, const uint32_t *rows, size_t len, float *y) {
    EACH(i, len) y[i] = x[(size_t)rows[i / width] * width + i % width];
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

__device__ __forceinline__ float inverse_rms(const float *x, int width, float eps, Row at, int warps, float *room) {
    float sum = 0;
    for (int i = at.first; i < width; i += at.step) sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(row_sum(sum, warps, room) / width + eps);
}

KERNEL rms_norm(const float *x, int rows, int width, const float *weight, float eps, float *y, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    x += (size_t)at.row * width, y += (size_t)at.row * width;
    float scale = inverse_rms(x, width, eps, at, warps, room);
    for (int i = at.first; i < width; i += at.step) y[i] = x[i] * scale * weight[i];
}

KERNEL rms_norm_backward(const float *dy, const float *x, int rows, int width, const float *weight, float eps,
                         float *dx, int add, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    size_t start = (size_t)at.row * width;
    dy += start, x += start, dx += start;
    float inverse = inverse_rms(x, width, eps, at, warps, room);
    float along = 0;
    for (int i = at.first; i < width; i += at.step) along = fmaf(dy[i] * weight[i], x[i], along);
    along = row_sum(along, warps, room);
    float back = along * inverse * inverse * inverse / width;
    for (int i = at.first; i < width; i += at.step) {
        float gradient = dy[i] * weight[i] * inverse - x[i] * back;
        dx[i] = add ? dx[i] + gradient : gradient;
    }
}

// 1 / sqrt(mean(x^2) + eps) of each row.
KERNEL inverse_rms_of_rows(const float *x, int rows, int width, float eps, float *y, int warps) {
    __shared__ float room[32];
    Row at = my_row(warps);
    if (at.row >= rows) return;
    float scale = inverse_rms(x + (size_t)at.row * width, width, eps, at, warps, room);
    if (at.first == 0) y[at.row] = scale;
}

// `len` counts pairs of numbers.
KERNEL rope(float *x, int heads, int head_dim, const uint32_t *positions, const float *cos, const float *sin,
            float sign, size_t len) {
    int half = head_dim / 2;
    EACH(i, len) {
        int d = i % half;
        size_t head = i / half, row = head / heads;
        size_t table = (size_t)positions[row] * half + d;
        float *low = x + head * head_dim + d, *high = low + half;
        float a = *low, b = *high, c = cos[table], s = sign * sin[table];
        *low = a * c - b * s;
        *high = b * c + a * s;
    }
}

__device__ __forceinline__ float silu_times(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

KERNEL swiglu(const float *gate, const float *up, size_t len, float *y) {
    if (by_four(len, gate, up, y)) {
        EACH(i, len / 4) {
            float4 a = four(gate, i), b = four(up, i);
            four(y, i) = make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z),
                                     silu_times(a.w, b.w));
        }
        return;
    }
    EACH(i, len) y[i] = silu_times(gate[i], up[i]);
}

__device__ __forceinline__ void gate_and_up(float d, float gate, float up, float &dgate, float &dup) {
    float sigmoid = 1.0f / (1.0f + expf(-gate));
    float slope = sigmoid * fmaf(gate, 1.0f - sigmoid, 1.0f);
    dgate = d * up * slope;
    dup = d * gate * sigmoid;
}

KERNEL swiglu_backward(const float *dy, const float *gate, const float *up, size_t len, float *dgate, float *dup) {
    if (by_four(len, gate, up, dy) && by_four(len, dgate, dup)) {
        EACH(i, len / 4) {
            float4 d = four(dy, i), a = four(gate, i), b = four(up, i), da, db;
            gate_and_up(d.x, a.x, b.x, da.x, db.x);
            gate_and_up(d.y, a.y, b.y, da.y, db.y);
            gate_and_up(d.z, a.z, b.z, da.z, db.z);
            gate_and_up(d.w, a.w, b.w, da.w, db.w);
            four(dgate, i) = da;
            four(dup, i) = db;
        }
        return;
    }
    EACH(i, len) gate_and_up(dy[i], gate[i], up[i], dgate[i], dup[i]);
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
KERNEL dropout(const float *x, const uint64_t *starts, const uint64_t *seeds, int draws, double rate, float keep,
               size_t len, float *y, int add) {
    EACH(i, len) {
        int low = 0, high = draws;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (starts[middle] <= i) low = middle; else high = middle;
        }
        float value = uniform(seeds[low], i - starts[low]) >= rate ? keep * x[i] : 0.0f;
        y[i] = add ? y[i] + value : value;
    }
}
