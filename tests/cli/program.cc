#include "cli/program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/files.h"

namespace tandem::testing {
namespace {

// One folder for all that the tests share, removed at the end; the cache of packed weights too.
class SharedFolder {
 public:
  SharedFolder() : path_(fs::temp_directory_path() / ("tandem-cli-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~SharedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

const fs::path& shared_folder() {
  static const SharedFolder folder;
  return folder.path();
}

void redirect(const fs::path& path, int flags, int to) {
  const int file = ::open(path.c_str(), flags, 0600);
  if (file < 0 || ::dup2(file, to) < 0) ::_exit(126);
}

}  // namespace

Program::Program(const std::vector<std::string>& arguments, const std::string& input, bool waits) {
  static int count = 0;
  folder_ = shared_folder() / ("run-" + std::to_string(++count));
  fs::create_directories(folder_);
  write_bytes(folder_ / "in", input);
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), TANDEM_PROGRAM);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string cache = (shared_folder() / "cache").string();
  int pipe[2] = {-1, -1};
  if (waits && ::pipe2(pipe, O_CLOEXEC) != 0) ADD_FAILURE() << "no pipe";
  input_ = pipe[1];
  pid_ = ::fork();
  if (pid_ != 0) {
    if (waits) ::close(pipe[0]);
    return;
  }
  redirect(folder_ / "in", O_RDONLY, STDIN_FILENO);
  if (waits && ::dup2(pipe[0], STDIN_FILENO) < 0) ::_exit(126);
  redirect(folder_ / "out", O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
  redirect(folder_ / "err", O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
  ::setenv("TANDEM_CACHE", cache.c_str(), 1);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

Program::~Program() {
  if (pid_ > 0) {
    send(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (input_ >= 0) ::close(input_);
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void Program::send(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

std::string Program::out_so_far() const {
  return fs::exists(folder_ / "out") ? read_text_file(folder_ / "out") : std::string();
}

std::string Program::err_so_far() const {
  return fs::exists(folder_ / "err") ? read_text_file(folder_ / "err") : std::string();
}

Outcome Program::wait() {
  int status = 0;
  EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
  pid_ = -1;
  Outcome outcome;
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = read_text_file(folder_ / "out");
  outcome.err = read_text_file(folder_ / "err");
  return outcome;
}

Outcome run_program(const std::vector<std::string>& arguments, const std::string& input) {
  return Program(arguments, input).wait();
}

Json run_for_json(std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  const Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  if (outcome.status != 0) return Json::object();
  Json json = parse_json(outcome.out, arguments.front());
  EXPECT_TRUE(json.is_object());
  return json;
}

void expect_refusal(const std::vector<std::string>& arguments,
                    const std::vector<std::string>& parts, const std::string& input) {
  const Outcome outcome = run_program(arguments, input);
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(outcome.err.starts_with("tandem: error: ")) << outcome.err;
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  for (const std::string& part : parts)
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err << "  lacks: " << part;
}

std::string demo() { return demo_dir().string(); }

std::string demo_package() {
  static const std::string package = [] {
    const std::string folder = (shared_folder() / "package").string();
    const Outcome outcome =
        run_program({"quantize", demo(), "-o", folder, "--calib", demo() + "/calibration.txt",
                     "--samples", "8", "--seq-len", "256"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return folder;
  }();
  return package;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace tandem::testing
