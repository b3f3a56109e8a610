// Reads the messages of sentencepiece_model.proto that encoding and decoding need.
#include <string>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/foreign_tokenizers.h"
#include "text/tokenizer/protobuf.h"
#include "text/tokenizer/sentencepiece_pieces.h"

namespace tandem {
namespace {

SentencePieceModel::Piece read_piece(std::string_view message, const std::string& place) {
  SentencePieceModel::Piece piece{"", 0, SentencePieceModel::Type::kNormal};
  for (ProtobufReader reader(message, place); reader.next();) {
    switch (reader.field()) {
      case 1:
        piece.text = reader.bytes();
        break;
      case 2:
        piece.score = static_cast<double>(reader.real());
        break;
      case 3:
        if (reader.number() < 1 || reader.number() > 6) {
          fail(ErrorCode::kFormat, "[tokenizer] {}: expected a type from 1 to 6, got {}", place,
               reader.number());
        }
        piece.type = static_cast<SentencePieceModel::Type>(reader.number());
        break;
      default:
        break;
    }
  }
  return piece;
}

void read_trainer(std::string_view message, const std::string& place, SentencePieceModel& model) {
  const auto id = [](const ProtobufReader& reader) {
    return static_cast<std::int32_t>(reader.number());  // -1: the model has no such token
  };
  for (ProtobufReader reader(message, place); reader.next();) {
    switch (reader.field()) {
      case 3:
        if (reader.number() != 1 && reader.number() != 2) {
          fail(ErrorCode::kUnsupported,
               "[tokenizer] {}: model type {}, expected 1 (unigram) or 2 (BPE)", place,
               reader.number());
        }
        model.kind = reader.number() == 2 ? SentencePieceModel::Kind::kBpe
                                          : SentencePieceModel::Kind::kUnigram;
        break;
      case 24:
        model.space_as_suffix = reader.flag();
        break;
      case 35:
        model.byte_fallback = reader.flag();
        break;
      case 41:
        model.bos_id = id(reader);
        break;
      case 42:
        model.eos_id = id(reader);
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view message, const std::string& place,
                     SentencePieceModel& model) {
  for (ProtobufReader reader(message, place); reader.next();) {
    switch (reader.field()) {
      case 2:
        model.character_map = reader.bytes();
        break;
      case 3:
        model.add_dummy_prefix = reader.flag();
        break;
      case 4:
        model.remove_extra_spaces = reader.flag();
        break;
      case 5:
        model.escape_spaces = reader.flag();
        break;
      default:
        break;
    }
  }
}

}  // namespace

Json read_sentencepiece_model(const fs::path& file, std::string_view bytes) {
  const std::string place = file.string();
  SentencePieceModel model;
  for (ProtobufReader reader(bytes, place); reader.next();) {
    switch (reader.field()) {
      case 1:
        model.pieces.push_back(
            read_piece(reader.bytes(), fmt::format("{}: pieces[{}]", place, model.pieces.size())));
        break;
      case 2:
        read_trainer(reader.bytes(), place + ": trainer_spec", model);
        break;
      case 3:
        read_normalizer(reader.bytes(), place + ": normalizer_spec", model);
        break;
      default:
        break;
    }
  }
  return to_tokenizer_json(std::move(model), TokenizerConfig::beside(file), place);
}

}  // namespace tandem
