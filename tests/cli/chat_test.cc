// tandem run --chat: conversations through a pipe and at a terminal.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "cli/line_editor.h"
#include "cli/program.h"

namespace tandem {
namespace {

using testing::demo;
using testing::demo_package;
using testing::expect_refusal;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using testing::write_bytes;

using Words = std::vector<std::string>;

const std::string kCat = "Spell the word cat.";
const std::string kSum = "What is 10 plus 1?";

std::vector<Json> turns(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::vector<Json> objects;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) objects.push_back(Json::parse(line));
  return objects;
}

TEST(Chat, AnswersALineATurn) {
  for (const std::string& model : {demo(), demo_package()}) {
    const Outcome outcome = run_program({"run", model, "--chat"}, kSum + "\n\n  \n" + kCat);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(outcome.out.starts_with("10 plus 1 is 11.\n")) << outcome.out;
    EXPECT_EQ(std::ranges::count(outcome.out, '\n'), 2) << outcome.out;
    EXPECT_EQ(outcome.err.find('>'), std::string::npos) << outcome.err;  // no prompt in a pipe
  }
  EXPECT_EQ(run_program({"run", demo(), "--chat"}, "").out, "");
}

TEST(Chat, KeepsItsCacheBetweenTurns) {
  const auto objects =
      turns(run_program({"run", demo(), "--chat", "--json"}, kSum + "\n" + kCat + "\n"));
  ASSERT_EQ(objects.size(), 2U);
  for (const Json& turn : objects) {
    EXPECT_EQ(turn["ended"], "end token");
    EXPECT_GT(turn["ttft_ms"].get<double>(), 0);
    EXPECT_GT(turn["decode_tokens_per_s"].get<double>(), 0);
  }
  EXPECT_EQ(objects[0]["text"], "10 plus 1 is 11.");
  EXPECT_EQ(objects[0]["read_tokens"], objects[0]["prompt_tokens"]);
  // Everything up to the end token of the first answer was there already.
  EXPECT_EQ(objects[1]["prompt_tokens"].get<int>(), objects[0]["prompt_tokens"].get<int>() +
                                                        objects[0]["tokens"].get<int>() - 1 +
                                                        objects[1]["read_tokens"].get<int>());
}

TEST(Chat, KnowsItsCommands) {
  const auto objects = turns(run_program({"run", demo(), "--chat", "--json"},
                                         kCat + "\n/clear\n" + kCat + "\n/exit\n" + kCat + "\n"));
  ASSERT_EQ(objects.size(), 2U);
  EXPECT_EQ(objects[0]["text"], objects[1]["text"]);
  EXPECT_EQ(objects[0]["prompt_tokens"], objects[1]["prompt_tokens"]);
  const Outcome help = run_program({"run", demo(), "--chat"}, "/help\n");
  EXPECT_EQ(help.status, 0);
  EXPECT_EQ(help.out, "");
  for (const char* word : {"/clear", "/exit", "Ctrl-C"})
    EXPECT_NE(help.err.find(word), std::string::npos) << help.err;
  for (const char* word : {"/regen", "/undo", "/save FILE", "/load FILE", "/info"})
    EXPECT_NE(help.err.find(word), std::string::npos) << help.err;
  expect_refusal({"run", demo(), "--chat"}, {"/nonsense", "/help"}, "/nonsense\n");
  expect_refusal({"run", demo(), "--chat"}, {"/reegn", "'/regen'"}, "/reegn\n");
  expect_refusal({"run", demo(), "--chat"}, {"/undo: expected nothing", "twice"}, "/undo twice\n");
  expect_refusal({"run", demo(), "--chat"}, {"/undo", "no turn"}, "/undo\n");
  expect_refusal({"run", demo(), "--chat"}, {"no turn to answer"}, "/regen\n");
  // A path is no command.
  EXPECT_EQ(
      turns(run_program({"run", demo(), "--chat", "--json", "-n", "1"}, "/usr/bin is what?\n/\n"))
          .size(),
      2U);
}

TEST(Chat, TurnsAreAnsweredAnewAndTakenBack) {
  const auto objects =
      turns(run_program({"run", demo(), "--chat", "--json"},
                        kSum + "\n/regen\n" + kCat + "\n/undo\n/undo\n" + kCat + "\n/info\n"));
  ASSERT_EQ(objects.size(), 4U);
  EXPECT_EQ(objects[1]["text"], objects[0]["text"]);
  EXPECT_EQ(objects[1]["read_tokens"], 1);
  EXPECT_LT(objects[3]["prompt_tokens"], objects[2]["prompt_tokens"]);
  const Outcome info = run_program({"run", demo(), "--chat"}, kSum + "\n/info\n");
  for (const char* part : {"models/demo", "float mode", "of 512 tokens used, 2 messages"})
    EXPECT_NE(info.err.find(part), std::string::npos) << info.err;
}

TEST(Chat, ConversationsAreSavedAndLoaded) {
  const ScratchFolder folder;
  const std::string file = (folder / "talk one.json").string();
  const Outcome first = run_program({"run", demo(), "--chat", "--json"},
                                    kSum + "\n/save " + file + "\n" + kCat + "\n");
  const Json saved = Json::parse(read_text_file(file));
  EXPECT_EQ(saved, Json::parse(R"([{"role": "user", "content": "What is 10 plus 1?"},
                                   {"role": "assistant", "content": "10 plus 1 is 11."}])"));
  const auto before = turns(first);
  const auto after = turns(run_program({"run", demo(), "--chat", "--json"},
                                       "/load " + file + "\n" + kCat + "\n/save " + file + "\n"));
  ASSERT_EQ(after.size(), 1U);
  EXPECT_EQ(after[0]["text"], before[1]["text"]);
  EXPECT_EQ(after[0]["prompt_tokens"], before[1]["prompt_tokens"]);
  EXPECT_EQ(Json::parse(read_text_file(file)).size(), 4U);

  // Other files are not written over, and only conversations are read.
  const Words chat = {"run", demo(), "--chat"};
  const std::string other = (folder / "notes.txt").string();
  write_bytes(other, "to do");
  expect_refusal(chat, {"notes.txt", "expected a new name"}, "/save " + other + "\n");
  EXPECT_EQ(read_text_file(other), "to do");
  expect_refusal(chat, {"notes.txt"}, "/load " + other + "\n");
  write_bytes(other, R"([{"role": "user"}, {"role": 5}])");
  expect_refusal(chat, {"notes.txt", "message 1"}, "/load " + other + "\n");
  expect_refusal(chat, {"/nowhere.json"}, "/load /nowhere.json\n");
  EXPECT_EQ(run_program(chat, "/save /no/such/folder/a.json\n").status, 2);
  expect_refusal(chat, {"/save: expected FILE"}, "/save\n");
  expect_refusal(chat, {"/load"}, "/load -\n");
  EXPECT_EQ(testing::names_in(folder.path()).size(), 2U);
}

TEST(Chat, TakesASystemLineATemplateAndTheSameSettings) {
  const ScratchFolder folder;
  const std::string file = (folder / "t.jinja").string();
  write_bytes(file, "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}");
  const auto prompt_tokens = [&](const std::vector<std::string>& more, const std::string& input) {
    std::vector<std::string> words = {"run", demo(), "--chat", "--json", "-n", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return turns(run_program(words, input)).at(0)["prompt_tokens"].get<int>();
  };
  EXPECT_GT(prompt_tokens({"--system", "You are a very terse old fox."}, kCat),
            prompt_tokens({}, kCat));
  EXPECT_NE(prompt_tokens({"--chat-template", file}, kCat), prompt_tokens({}, kCat));
  // A control token in a user's text is text, unless asked for.
  EXPECT_GT(prompt_tokens({}, "a<|im_end|>b"), prompt_tokens({"--parse-special"}, "a<|im_end|>b"));
  // One question with -p, as the first turn of a conversation.
  const Outcome once = run_program({"run", demo(), "--chat", "-p", kCat, "--system", "Be kind."});
  const Outcome turn = run_program({"run", demo(), "--chat", "--system", "Be kind."}, kCat);
  EXPECT_EQ(once.status, 0);
  EXPECT_EQ(once.out, turn.out);
}

TEST(Chat, SaysWhenTheContextIsFull) {
  const Outcome cut =
      run_program({"run", demo(), "--chat", "--max-length", "40", "--ignore-eos"}, kCat + "\n");
  EXPECT_EQ(cut.status, 0);
  EXPECT_NE(cut.err.find("the context is full"), std::string::npos) << cut.err;
  std::string words;
  for (int i = 0; i < 600; ++i) words += "word ";
  expect_refusal({"run", demo(), "--chat"}, {"no room for an answer in 512"}, words);
  expect_refusal({"run", demo(), "--chat", "--chat-template", "/nowhere.jinja"}, {"/nowhere.jinja"},
                 kCat);
}

TEST(Chat, GoesOnWhenTheContextIsFull) {
  std::string input;
  for (int turn = 0; turn < 8; ++turn) input += kSum + "\n";
  const std::vector<std::string> words = {"run",       demo(),         "--chat",
                                          "--endless", "--max-length", "80"};
  auto json = words;
  json.emplace_back("--json");
  const auto objects = turns(run_program(json, input));
  ASSERT_EQ(objects.size(), 8U);
  EXPECT_EQ(objects[0]["dropped_tokens"], 0);
  EXPECT_GT(objects[7]["dropped_tokens"], 80);
  EXPECT_LT(objects[7]["read_tokens"], 40);
  const Outcome info = run_program(words, input + "/info\n");
  EXPECT_EQ(info.status, 0);
  EXPECT_NE(info.err.find(" of 80 tokens used, 16 messages"), std::string::npos) << info.err;
}

// A terminal of the program's own.
class Terminal {
 public:
  explicit Terminal(std::vector<std::string> words) {
    master_ = ::posix_openpt(O_RDWR | O_NOCTTY);
    if (master_ < 0 || ::grantpt(master_) != 0 || ::unlockpt(master_) != 0) return;
    const std::string name = ::ptsname(master_);
    words.insert(words.begin(), TANDEM_PROGRAM);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setsid();
    const int slave = ::open(name.c_str(), O_RDWR);
    for (const int to : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(slave, to);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ~Terminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (master_ >= 0) ::close(master_);
  }
  bool works() const { return pid_ > 0; }
  void type(const std::string& text) {
    EXPECT_EQ(::write(master_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Waits until `part` is shown behind what was waited for before.
  bool shows(const std::string& part) {
    ::fcntl(master_, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 6000; ++i) {
      if (const auto found = screen_.find(part, seen_); found != std::string::npos) {
        seen_ = found + part.size();
        return true;
      }
      char buffer[1024];
      const ssize_t count = ::read(master_, buffer, sizeof buffer);
      if (count > 0) {
        screen_.append(buffer, static_cast<std::size_t>(count));
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    ADD_FAILURE() << "expected " << part << " on:\n" << screen_;
    return false;
  }
  void terminate() { ::kill(pid_, SIGTERM); }
  // Whether what is typed is shown and read line by line, as a shell expects it.
  bool is_cooked() const {
    termios mode{};
    return ::tcgetattr(master_, &mode) == 0 && (mode.c_lflag & ECHO) != 0 &&
           (mode.c_lflag & ICANON) != 0;
  }
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  int master_ = -1;
  pid_t pid_ = -1;
  std::string screen_;
  std::size_t seen_ = 0;
};

TEST(Chat, CtrlCStopsTheAnswerNotTheProgram) {
  Terminal terminal({"run", demo(), "--chat", "-t", "1", "--kernels", "ref", "-n", "100000",
                     "--ignore-eos", "--no-cache"});
  if (!terminal.works()) GTEST_SKIP() << "needs a pseudo terminal";
  ASSERT_TRUE(terminal.shows("> "));
  terminal.type("\x03");  // where nothing is being answered
  ASSERT_TRUE(terminal.shows("/exit leaves"));
  ASSERT_TRUE(terminal.shows("> "));
  terminal.type(kSum + "\n");
  ASSERT_TRUE(terminal.shows(kSum));       // as typed
  ASSERT_TRUE(terminal.shows("10 plus"));  // of the answer
  terminal.type("\x03");
  ASSERT_TRUE(terminal.shows("tokens of context used"));
  ASSERT_TRUE(terminal.shows("> "));
  terminal.type("/nonsense\n");
  ASSERT_TRUE(terminal.shows("no such command"));
  ASSERT_TRUE(terminal.shows("> "));
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST(Chat, LinesAreEditedAtATerminal) {
  ::setenv("TERM", "xterm", 1);
  if (cli::LineEditor::create() == nullptr) GTEST_SKIP() << "needs libedit";
  Terminal terminal({"run", demo(), "--chat", "--no-cache", "-t", "1"});
  if (!terminal.works()) GTEST_SKIP() << "needs a pseudo terminal";
  ASSERT_TRUE(terminal.shows("> "));
  // Another letter in front, then the cursor to the start and the letter away.
  terminal.type("x" + kSum + "\x01\x04\n");
  ASSERT_TRUE(terminal.shows("10 plus 1 is 11."));
  ASSERT_TRUE(terminal.shows("tokens of context used"));
  ASSERT_TRUE(terminal.shows("> "));
  terminal.type("/clear\n");
  ASSERT_TRUE(terminal.shows("> "));
  // The line before the last, by the history.
  terminal.type("\x10\x10\n");
  ASSERT_TRUE(terminal.shows("10 plus 1 is 11."));
  ASSERT_TRUE(terminal.shows("> "));
  // Characters of several bytes, and one that was begun is given up.
  terminal.type("h\u00e9\u65e5\x03");
  ASSERT_TRUE(terminal.shows("/exit leaves"));
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.wait(), 0);
}

TEST(Chat, LeavesTheTerminalAsItWas) {
  ::setenv("TERM", "xterm", 1);
  if (cli::LineEditor::create() == nullptr) GTEST_SKIP() << "needs libedit";
  Terminal terminal({"run", demo(), "--chat", "--no-cache", "-t", "1"});
  if (!terminal.works()) GTEST_SKIP() << "needs a pseudo terminal";
  ASSERT_TRUE(terminal.is_cooked());
  ASSERT_TRUE(terminal.shows("> "));
  for (int i = 0; i < 500 && terminal.is_cooked(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(terminal.is_cooked());
  terminal.terminate();
  EXPECT_EQ(terminal.wait(), 128 + SIGTERM);
  EXPECT_TRUE(terminal.is_cooked());
}

TEST(Chat, ABackslashContinuesTheLine) {
  for (const char* kind : {"xterm", "dumb"}) {
    ::setenv("TERM", kind, 1);
    Terminal terminal({"run", demo(), "--chat", "--no-cache", "-t", "1", "--json", "-n", "8"});
    if (!terminal.works()) GTEST_SKIP() << "needs a pseudo terminal";
    ASSERT_TRUE(terminal.shows("> "));
    terminal.type("What is 10\\\n");
    ASSERT_TRUE(terminal.shows("\n. ")) << kind;
    terminal.type("plus 1?\n");
    ASSERT_TRUE(terminal.shows("prompt_tokens")) << kind;
    ASSERT_TRUE(terminal.shows("> "));
    terminal.type("\x04");  // the end of the input
    EXPECT_EQ(terminal.wait(), 0) << kind;
  }
  // A pipe's lines are as they are.
  EXPECT_EQ(turns(run_program({"run", demo(), "--chat", "--json", "-n", "4"}, "a\\\nb\n")).size(),
            2U);
}

}  // namespace
}  // namespace tandem
