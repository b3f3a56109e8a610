// Without libedit.
#include "cli/line_editor.h"

namespace tandem::cli {

std::unique_ptr<LineEditor> LineEditor::create() { return nullptr; }

}  // namespace tandem::cli
