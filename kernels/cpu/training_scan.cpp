// Compiles the training scan for every instruction set; the fastest that this processor has runs.
#include "kernels/cpu/training_scan.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training_scan.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "kernels/cpu/training_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {

template <class Real, class Function>
void apply(const Real* x, std::size_t count, Real* y) {
  map(x, count, y, Function());
}

template <class Real>
const TrainingOps<Real>& table() {
  static const TrainingOps<Real> kTable = {forwardTile<Real>,     againTile<Real>,
                                           backwardTile<Real>,    apply<Real, Sigmoid>,
                                           apply<Real, Softplus>, apply<Real, OneMinusExp>};
  return kTable;
}

const TrainingOps<float>& floatTable() {
  return table<float>();
}
const TrainingOps<double>& doubleTable() {
  return table<double>();
}

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mb::cpu {

HWY_EXPORT(floatTable);
HWY_EXPORT(doubleTable);

template <>
const TrainingOps<float>& trainingOps() {
  return HWY_DYNAMIC_DISPATCH(floatTable)();
}
template <>
const TrainingOps<double>& trainingOps() {
  return HWY_DYNAMIC_DISPATCH(doubleTable)();
}

}  // namespace mb::cpu
#endif
