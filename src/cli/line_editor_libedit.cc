// With libedit, which reads keys in raw mode and draws the line on standard error.
#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <cwchar>

#include "cli/interrupt.h"
#include "cli/line_editor.h"

namespace tandem::cli {
namespace {

constexpr int kRemembered = 1000;

// 1: a character, 0: the end, -1: interrupted. libedit's own function would go on reading after
// Ctrl-C.
int read_character(EditLine*, wchar_t* character) {
  std::mbstate_t state{};
  for (;;) {
    char byte = 0;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR && !interrupted()) continue;
    if (count <= 0) return static_cast<int>(count);
    const std::size_t size = std::mbrtowc(character, &byte, 1, &state);
    if (size == static_cast<std::size_t>(-2)) continue;  // more bytes belong to it
    if (size == static_cast<std::size_t>(-1)) {
      state = {};
      continue;
    }
    return 1;
  }
}

class LibeditEditor : public LineEditor {
 public:
  LibeditEditor()
      : editor_(::el_init("tandem", stdin, stderr, stderr)), history_(::history_init()) {
    if (editor_ == nullptr || history_ == nullptr) return;
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, kRemembered);
    ::el_set(editor_, EL_CLIENTDATA, this);
    ::el_set(editor_, EL_PROMPT, &prompt_of);
    ::el_set(editor_, EL_EDITOR, "emacs");
    ::el_set(editor_, EL_GETCFN, &read_character);
    ::el_set(editor_, EL_HIST, ::history, history_);
    // The user's own keys.
    ::el_source(editor_, nullptr);
  }
  ~LibeditEditor() override {
    if (history_ != nullptr) ::history_end(history_);
    if (editor_ != nullptr) ::el_end(editor_);
  }
  LibeditEditor(const LibeditEditor&) = delete;
  LibeditEditor& operator=(const LibeditEditor&) = delete;

  bool works() const { return editor_ != nullptr && history_ != nullptr; }

  std::optional<std::string> read(const std::string& prompt) override {
    prompt_ = prompt;
    ::el_resize(editor_);
    int count = 0;
    const char* line = ::el_gets(editor_, &count);
    if (line == nullptr || count <= 0) return std::nullopt;
    std::string text(line, static_cast<std::size_t>(count));
    while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
    return text;
  }

  void remember(const std::string& line) override {
    HistEvent event;
    ::history(history_, &event, H_ENTER, line.c_str());
  }

 private:
  static char* prompt_of(EditLine* editor) {
    void* self = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<LibeditEditor*>(self)->prompt_.data();
  }

  EditLine* editor_;
  History* history_;
  std::string prompt_;
};

}  // namespace

std::unique_ptr<LineEditor> LineEditor::create() {
  const char* terminal = std::getenv("TERM");
  if (terminal == nullptr || std::strcmp(terminal, "dumb") == 0) return nullptr;
  // Lines are UTF-8, whatever the locale says; numbers keep the format of C.
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  auto editor = std::make_unique<LibeditEditor>();
  if (!editor->works()) return nullptr;
  return editor;
}

}  // namespace tandem::cli
