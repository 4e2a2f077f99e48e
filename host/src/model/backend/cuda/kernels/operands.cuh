// Operations on what is kept in bf16 because products read it; each number is computed in f32 and rounded once.

KERNEL rms_norm_rounded(const float *x, int rows, int width, const float *weight, float eps, Half *y, int pitch,
                        int warps) {
    norm_row(x, rows, width, weight, eps, y, pitch, warps);
}

KERNEL rms_norm_bf16(const Half *x, int rows, int width, const float *weight, float eps, Half *y, int pitch,
                     int warps) {
    norm_row(x, rows, width, weight, eps, y, pitch, warps);
}

KERNEL rms_norm_backward_bf16(const Half *dy, const Half *x, int rows, int width, const float *weight, float eps,
                              Half *dx, int add, int warps) {
    norm_row_backward(dy, x, rows, width, weight, eps, dx, add, warps);
}

KERNEL inverse_rms_of_rows_bf16(const Half *x, int rows, int width, float eps, float *y, int warps) {
    inverse_rms_of(x, rows, width, eps, y, warps);
}

KERNEL sum_of_rows_bf16(const Half *dy, const Half *x, const float *factors, int rows, int width, float *parts) {
    sum_rows(dy, x, factors, rows, width, parts);
}

KERNEL add_bias_bf16(const float *bias, int width, size_t len, Half *y) { add_bias_to(bias, width, len, y); }

KERNEL rope_bf16(Half *x, int heads, int head_dim, const uint32_t *positions, const float *cos, const float *sin,
                 float sign, size_t len) {
    rotate(x, heads, head_dim, positions, cos, sin, sign, len);
}

KERNEL gather_bf16(const Half *x, int width, const uint32_t *rows, size_t len, Half *y) {
    gather_rows(x, width, rows, len, y);
}

KERNEL swiglu_rounded(const float *gate, const float *up, size_t len, Half *y) {
    silu_and_times(gate, up, of_grid(len), y);
}

// Where rows of what is written lie `pitch` numbers apart, a block has a row of `width`; where both are 0, all blocks
// share `len` numbers.
__device__ __forceinline__ Span of_row(size_t len, int width) {
    return width ? Span{threadIdx.x, blockDim.x, (size_t)width} : of_grid(len);
}

KERNEL swiglu_bf16(const Half *gate, const Half *up, size_t len, int width, Half *y, int pitch) {
    size_t from = (size_t)blockIdx.x * width, to = (size_t)blockIdx.x * pitch;
    silu_and_times(gate + from, up + from, of_row(len, width), y + to);
}

KERNEL swiglu_backward_bf16(const Half *dy, const Half *gate, const Half *up, size_t len, int width, Half *dgate,
                            Half *dup, int pitch) {
    size_t from = (size_t)blockIdx.x * width, to = (size_t)blockIdx.x * pitch;
    silu_and_times_backward(dy + from, gate + from, up + from, of_row(len, width), dgate + to, dup + to);
}

KERNEL dropout_bf16(const Half *x, int width, int pitch, const uint64_t *starts, const uint64_t *seeds, int draws,
                    double rate, float keep, size_t len, Half *y, int add) {
    drop(x, width, pitch, starts, seeds, draws, rate, keep, len, y, add);
}

KERNEL dropout_widened(const Half *x, int width, int pitch, const uint64_t *starts, const uint64_t *seeds, int draws,
                       double rate, float keep, size_t len, float *y, int add) {
    drop(x, width, pitch, starts, seeds, draws, rate, keep, len, y, add);
}

KERNEL attention_deltas_bf16(const Half *dy, const Half *y, int count, int head_dim, float *deltas) {
    deltas_of(dy, y, count, head_dim, deltas);
}
