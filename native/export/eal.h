// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/status.h"

namespace ep::exports {

/// Brings up DPDK's environment layer, which rte_vhost stands on, once per process: the one EAL
/// singleton. Without huge pages, PCI, telemetry and files in /run; on a thread that ends, so that
/// neither the caller's name nor its CPU affinity changes. Takes about 0.1 s the first time,
/// nothing later; a failure is final and is returned again. Any thread.
Status ensure_eal();

}  // namespace ep::exports
