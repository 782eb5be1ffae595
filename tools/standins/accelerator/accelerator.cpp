// Pretended accelerators: two devices of PyTorch (its PrivateUse1) whose memory is the CPU's and whose maths is the
// CPU's, but which keep two of CUDA's rules that a CPU does not have:
//   - all tensors of an operation lie on one device, but for numbers (0-dim tensors of the CPU) and indices of the CPU;
//     a generator draws for its own device alone;
//   - memory ends: past the capacity, which both share, an allocation raises torch.OutOfMemoryError.
// Operations that are not defined here check the first rule and then run as the CPU's own, on copies. What is defined
// here are allocation, copies between the devices, and views, which must share memory and so cannot run on copies.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <utility>

namespace {

using namespace at;

constexpr DeviceIndex COUNT = 2;
thread_local DeviceIndex current = 0;

Device accelerator(DeviceIndex index) { return Device(DeviceType::PrivateUse1, index); }

// Memory

std::atomic<int64_t> used{0}, peak{0};
std::atomic<int64_t> capacity{std::numeric_limits<int64_t>::max()};

struct Block {
  void* memory;
  int64_t size;
};

void free_block(void* pointer) {
  auto* block = static_cast<Block*>(pointer);
  used -= block->size;
  c10::free_cpu(block->memory);
  delete block;
}

struct CappedAllocator final : c10::Allocator {
  DataPtr allocate(size_t bytes) override {
    const auto size = static_cast<int64_t>(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, size <= capacity - used, "The pretended accelerator is out of memory: tried to ",
                     "allocate ", size, " bytes where ", used.load(), " of ", capacity.load(), " are in use.");
    used += size;
    peak = std::max(peak.load(), used.load());
    auto* block = new Block{c10::alloc_cpu(bytes), size};
    return {block->memory, block, &free_block, accelerator(current)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

CappedAllocator allocator;
REGISTER_ALLOCATOR(DeviceType::PrivateUse1, &allocator)

// The devices, each with one stream that never waits.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::PrivateUse1; }
  Device exchangeDevice(Device device) const override { return accelerator(std::exchange(current, device.index())); }
  Device getDevice() const override { return accelerator(current); }
  void setDevice(Device device) const override { current = device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return COUNT; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// torch.Generator of a device: the CPU's random numbers under another device's name.
struct AcceleratorGenerator final : CPUGeneratorImpl {
  explicit AcceleratorGenerator(Device device) { device_ = device; }
};

struct Hooks final : PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return COUNT; }
  Generator getNewGenerator(DeviceIndex index) const override {
    return make_generator<AcceleratorGenerator>(accelerator(index < 0 ? current : index));
  }
};
const bool hooks_are_registered = (RegisterPrivateUse1HooksInterface(new Hooks), true);

// Allocation and copies

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device> device,
             std::optional<bool>, std::optional<MemoryFormat> format) {
  const OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &allocator, DispatchKeySet(DispatchKey::PrivateUse1),
                                   dtype.value_or(get_default_dtype_as_scalartype()), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<Layout>,
                     std::optional<Device> device, std::optional<bool>) {
  const OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &allocator, DispatchKeySet(DispatchKey::PrivateUse1),
                                           dtype.value_or(get_default_dtype_as_scalartype()));
}

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  Tensor twin = from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(kCPU));
  twin._set_conj(tensor.is_conj());
  twin._set_neg(tensor.is_neg());
  return twin;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

Scalar local_scalar_dense(const Tensor& tensor) { return on_cpu(tensor).item(); }

// Views: the CPU's own code, which looks at sizes and strides alone.

Tensor view(const Tensor& tensor, SymIntArrayRef size) { return native::view(tensor, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor reshape_alias(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
  return native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor& set_storage(Tensor& tensor, Storage storage, SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  return native::set_storage_cpu_(tensor, storage, offset.guard_int(__FILE__, __LINE__), C10_AS_INTARRAYREF_SLOW(size),
                                  C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize_(const Tensor& tensor, SymIntArrayRef size, std::optional<MemoryFormat> format) {
  const DeviceGuard guard(tensor.device());
  return native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
}

// Everything else

// Raises where CUDA does: what an operation is given must be of one device.
class OneDevice {
 public:
  explicit OneDevice(const std::string& operation) : operation_(operation) {}

  void add(const Tensor& tensor) {
    if (tensor.defined() && !(tensor.is_cpu() && tensor.dim() == 0)) add(tensor.device());
  }
  void add(Device device) {
    TORCH_CHECK(device == device_.value_or(device), "Expected all tensors to be on the same device, but found at least ",
                "two devices, ", *device_, " and ", device, "! (in ", operation_, ")");
    device_ = device;
  }
  void add_index(const Tensor& index) {
    if (index.defined() && !index.is_cpu()) add(index.device());
  }

 private:
  std::string operation_;
  std::optional<Device> device_;
};

void run_on_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const std::string& name = operation.schema().name();
  const bool indexes = name.find("index") != std::string::npos;
  OneDevice devices(name);
  std::optional<Generator> own, cpus;
  for (IValue& value : torch::jit::last(*stack, operation.schema().arguments().size()).vec()) {
    if (value.isTensor()) devices.add(value.toTensor());
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorVector()) devices.add(tensor);
    if (value.isOptionalTensorList())
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
        if (tensor) indexes ? devices.add_index(*tensor) : devices.add(*tensor);
  }
  for (IValue& value : *stack)  // a generator of the CPU takes over, and hands the state back that it comes to
    if (value.isGenerator()) {
      own = value.toGenerator();
      devices.add(own->device());
      cpus = at::detail::createCPUGenerator();
      cpus->set_state(own->get_state());
      value = *cpus;
    }
  native::cpu_fallback(operation, stack);
  if (own) own->set_state(cpus->get_state());
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, SymIntArrayRef stride,
                   SymIntArrayRef padding, SymIntArrayRef dilation, bool transposed, SymIntArrayRef output_padding,
                   SymInt groups) {
  OneDevice devices("aten::convolution");
  devices.add(input);
  devices.add(weight);
  std::optional<Tensor> cpu_bias;
  if (bias && bias->defined()) {
    devices.add(*bias);
    cpu_bias = on_cpu(*bias);
  }
  return at::convolution_symint(on_cpu(input), on_cpu(weight), cpu_bias, stride, padding, dilation, transposed,
                                output_padding, groups)
      .to(input.device());
}

// Attention of PyTorch by plain products, which are operations of their own.
int64_t fused_sdp_choice(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                         std::optional<double>, bool) {
  return 0;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar_dense);
  library.impl("resize_", &resize_);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("as_strided", &native::as_strided_tensorimpl);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("unfold", &native::unfold);
  library.impl("view_as_real", &native::view_as_real);
  library.impl("view_as_complex", &native::view_as_complex);
  library.impl("convolution_overrideable", &convolution);
  library.impl("_fused_sdp_choice", &fused_sdp_choice);
  // PyTorch has a composition for devices without group norm, which rounds otherwise than the CPU's.
  library.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

// A copy resolves conjugation itself; elsewhere PyTorch resolves it beforehand, by a copy.
TORCH_LIBRARY_IMPL(aten, Conjugate, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

}  // namespace

extern "C" {
int64_t accelerator_used() { return used; }
int64_t accelerator_peak() { return peak; }
int64_t accelerator_capacity() { return capacity; }
void accelerator_set_capacity(int64_t bytes) { capacity = bytes; }
}
