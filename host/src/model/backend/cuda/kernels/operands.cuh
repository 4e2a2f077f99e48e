// Operations on what is kept in bf16 because products read it; each number is computed in f32 and rounded once.

KERNEL rms_norm_rounded(const float *x, int rows, int width, const float *weight, float eps, Half *y, int warps) {
    norm_row(x, rows, width, weight, eps, y, warps);
}

KERNEL rms_norm_bf16(const Half *x, int rows, int width, const float *weight, float eps, Half *y, int warps) {
    norm_row(x, rows, width, weight, eps, y, warps);
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

KERNEL swiglu_rounded(const float *gate, const float *up, size_t len, Half *y) { silu_and_times(gate, up, len, y); }

KERNEL swiglu_bf16(const Half *gate, const Half *up, size_t len, Half *y) { silu_and_times(gate, up, len, y); }

KERNEL swiglu_backward_bf16(const Half *dy, const Half *gate, const Half *up, size_t len, Half *dgate, Half *dup) {
    silu_and_times_backward(dy, gate, up, len, dgate, dup);
}

KERNEL dropout_bf16(const Half *x, const uint64_t *starts, const uint64_t *seeds, int draws, double rate, float keep,
                    size_t len, Half *y, int add) {
    drop(x, starts, seeds, draws, rate, keep, len, y, add);
}

KERNEL dropout_widened(const Half *x, const uint64_t *starts, const uint64_t *seeds, int draws, double rate,
                       float keep, size_t len, float *y, int add) {
    drop(x, starts, seeds, draws, rate, keep, len, y, add);
}

KERNEL attention_deltas_bf16(const Half *dy, const Half *y, int count, int head_dim, float *deltas) {
    deltas_of(dy, y, count, head_dim, deltas);
}
