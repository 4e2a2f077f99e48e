// What several kernels need.
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

#define KERNEL extern "C" __global__ void

typedef __nv_bfloat16 Half;

// Sums over a warp; all lanes get the sum.
__device__ __forceinline__ float warp_sum(float x) {
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
    return x;
}

// Sums over a block of whole warps; all threads get the sum. `room` has 32 numbers.
template <typename T> __device__ __forceinline__ T block_sum(T x, T *room) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? room[lane] : T(0));
}

__device__ __forceinline__ float block_max(float x, float *room) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? room[lane] : -INFINITY);
}

// Whether arrays may be taken four numbers at a time.
__device__ __forceinline__ bool by_four(size_t len, const void *a, const void *b = nullptr, const void *c = nullptr) {
    return len % 4 == 0 && ((size_t)a | (size_t)b | (size_t)c) % 16 == 0;
}

__device__ __forceinline__ float4 &four(float *x, size_t i) { return reinterpret_cast<float4 *>(x)[i]; }
__device__ __forceinline__ const float4 &four(const float *x, size_t i) {
    return reinterpret_cast<const float4 *>(x)[i];
}

// Four numbers of an array, whichever type they have there.
__device__ __forceinline__ float4 get_four(const float *x, size_t i) { return four(x, i); }
__device__ __forceinline__ float4 get_four(const Half *x, size_t i) {
    uint2 both = reinterpret_cast<const uint2 *>(x)[i];
    return make_float4(__uint_as_float(both.x << 16), __uint_as_float(both.x & 0xffff0000),
                       __uint_as_float(both.y << 16), __uint_as_float(both.y & 0xffff0000));
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&both);
}

__device__ __forceinline__ void put_four(float *y, size_t i, float4 x) { four(y, i) = x; }
__device__ __forceinline__ void put_four(Half *y, size_t i, float4 x) {
    reinterpret_cast<uint2 *>(y)[i] = make_uint2(pack(x.x, x.y), pack(x.z, x.w));
}

// The elements of a flat array that belong to this thread.
#define EACH(i, len) \
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (len); \
         i += (size_t)gridDim.x * blockDim.x)
