// The default number of threads: the physical cores the process may run on, limited by its CPU
// quota.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "base/thread_pool.h"

namespace tandem {
namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// Distinct cores of the logical processors in the affinity mask; 0 if unknown.
int cores_in_affinity_mask() {
  // More than any kernel is built for today (8192); a mask smaller than the kernel's would be
  // rejected.
  constexpr int kMaxCpus = 16384;
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(kMaxCpus),
                                                             [](cpu_set_t* s) { CPU_FREE(s); });
  const std::size_t bytes = CPU_ALLOC_SIZE(kMaxCpus);
  CPU_ZERO_S(bytes, set.get());
  if (set == nullptr || ::sched_getaffinity(0, bytes, set.get()) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (!CPU_ISSET_S(static_cast<std::size_t>(cpu), bytes, set.get())) continue;
    // Logical processors of the same core list the same siblings.
    const auto siblings =
        first_line(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    cores.insert(siblings.value_or(fmt::format("cpu {}", cpu)));
  }
  return static_cast<int>(cores.size());
}

// The CPU quota of one cgroup folder in CPUs, such as 1.5; nullopt if it sets no limit.
std::optional<double> quota_of(const std::string& folder) {
  std::ifstream unified(folder + "/cpu.max");
  double quota = 0, period = 0;
  if (unified >> quota >> period && quota > 0 && period > 0) return quota / period;
  std::ifstream old_quota(folder + "/cpu.cfs_quota_us"), old_period(folder + "/cpu.cfs_period_us");
  if (old_quota >> quota && old_period >> period && quota > 0 && period > 0) return quota / period;
  return std::nullopt;
}

// The tightest limit among this process's cgroups and their ancestors.
std::optional<double> cpu_quota() {
  std::optional<double> tightest;
  std::ifstream file(
      "/proc/self/cgroup");  // lines "0::/a/b" (version 2) or "4:cpu,cpuacct:/a/b" (version 1)
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    std::string group = line.substr(second + 1);
    for (;;) {
      const auto quota = quota_of(root + group);
      if (quota && (!tightest || *quota < *tightest)) tightest = quota;
      if (group.empty()) break;
      group.resize(std::min(group.rfind('/'), group.size()));
    }
  }
  return tightest;
}

}  // namespace

int default_threads() noexcept {
  try {
    int threads = cores_in_affinity_mask();
    if (threads == 0) threads = static_cast<int>(std::thread::hardware_concurrency());
    if (const auto quota = cpu_quota())
      threads = std::min(threads, static_cast<int>(std::ceil(*quota)));
    return std::clamp(threads, 1, ThreadPool::kMaxThreads);
  } catch (...) {
    return 1;
  }
}

}  // namespace tandem
