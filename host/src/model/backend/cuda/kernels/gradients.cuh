// Gradients that are sums over rows, and the optimiser.

// Rows that one block of `sum_of_rows` adds up.
constexpr int RUN = 64;

// parts[run][i] = sum over the rows of a run of dy[row][i], times x[row][i] * factors[row] where they are given.
template <typename T>
__device__ void sum_rows(const T *dy, const T *x, const float *factors, int rows, int width, float *parts) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    int first = blockIdx.y * RUN, end = min(rows, first + RUN);
    float sum = 0;
    for (int row = first; row < end; row++) {
        float d = dy[(size_t)row * width + i];
        sum += x ? d * (float)x[(size_t)row * width + i] * factors[row] : d;
    }
    parts[(size_t)blockIdx.y * width + i] = sum;
}

KERNEL sum_of_rows(const float *dy, const float *x, const float *factors, int rows, int width, float *parts) {
    sum_rows(dy, x, factors, rows, width, parts);
}

// y[i] += the sum of the parts, in order.
KERNEL add_parts(const float *parts, int runs, int width, float *y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    float sum = 0;
    for (int run = 0; run < runs; run++) sum += parts[(size_t)run * width + i];
    y[i] += sum;
}

// Adds rows of dy to dw: those of `rows[starts[i]..starts[i + 1]]` to row `tokens[i]`, in order.
KERNEL add_rows(const float *dy, const uint32_t *tokens, const uint32_t *starts, const uint32_t *rows, int width,
                float *dw) {
    dw += (size_t)tokens[blockIdx.x] * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = dw[i];
        for (uint32_t j = starts[blockIdx.x]; j < starts[blockIdx.x + 1]; j++) sum += dy[(size_t)rows[j] * width + i];
        dw[i] = sum;
    }
}

// Numbers of a tensor that one block takes.
constexpr size_t PIECE = 16384;

// Tensors of any lengths in one launch: a piece of one of them for each block. `starts[i]` is the first piece
// of tensor `i`; no tensor is empty.
struct Tensors {
    const uint64_t *starts, *lens;
    float *const *addresses; // `each` of them for each tensor
    int count, each;
};

// What a block has of its tensor.
struct Piece {
    float *const *addresses;
    size_t first, end;
};

__device__ __forceinline__ Piece my_piece(Tensors tensors) {
    int low = 0, high = tensors.count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (tensors.starts[middle] <= blockIdx.x) low = middle; else high = middle;
    }
    size_t first = (blockIdx.x - tensors.starts[low]) * PIECE, len = tensors.lens[low];
    return Piece{tensors.addresses + (size_t)tensors.each * low, first, len < first + PIECE ? len : first + PIECE};
}

// One sum of squares for each piece; a tensor is one address.
KERNEL squared_norm(Tensors tensors, double *parts) {
    __shared__ double room[32];
    Piece piece = my_piece(tensors);
    const float *x = piece.addresses[0];
    double sum = 0;
    for (size_t i = piece.first + threadIdx.x; i < piece.end; i += blockDim.x) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// A tensor is two addresses: y += x.
KERNEL add_tensors(Tensors tensors) {
    Piece piece = my_piece(tensors);
    const float *x = piece.addresses[0];
    float *y = piece.addresses[1];
    for (size_t i = piece.first + threadIdx.x; i < piece.end; i += blockDim.x) y[i] += x[i];
}

// A tensor is two addresses and the bits of a scale: y = scale * x, rounded to bf16.
KERNEL round_tensors(Tensors tensors) {
    Piece piece = my_piece(tensors);
    const float *x = piece.addresses[0];
    Half *y = reinterpret_cast<Half *>(piece.addresses[1]);
    float scale = __uint_as_float((uint32_t)(size_t)piece.addresses[2]);
    for (size_t i = piece.first + threadIdx.x; i < piece.end; i += blockDim.x) y[i] = __float2bfloat16_rn(scale * x[i]);
}

KERNEL clear_tensors(Tensors tensors) {
    Piece piece = my_piece(tensors);
    float *y = piece.addresses[0];
    for (size_t i = piece.first + threadIdx.x; i < piece.end; i += blockDim.x) y[i] = 0;
}

// A tensor is four addresses: parameters, gradients, first and second moments. With the factors that do not
// change from one number to the next.
KERNEL adamw(Tensors tensors, float scale, float rest1, float beta2, float rest2, float decay, float size, float root,
             float eps) {
    Piece piece = my_piece(tensors);
    float *parameters = piece.addresses[0], *first = piece.addresses[2], *second = piece.addresses[3];
    const float *gradients = piece.addresses[1];
    for (size_t i = piece.first + threadIdx.x; i < piece.end; i += blockDim.x) {
        float gradient = scale * gradients[i];
        float m = first[i] + rest1 * (gradient - first[i]);
        float v = beta2 * second[i] + rest2 * gradient * gradient;
        first[i] = m, second[i] = v;
        parameters[i] = decay * parameters[i] - size * m / (sqrtf(v) / root + eps);
    }
}
