// Runs as JSON: the keys that files and scripts rely on, and their values.
#include <QtTest>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/checkpoint/checkpoint.h"
#include "engine/export/run_export.h"
#include "tests/support/model_files.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

std::set<std::string> keysOf(const Json& json) {
  std::set<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.insert(key);
  return keys;
}

ByteRecord scoredByte() {
  ByteRecord record;
  record.byte = 0xe9;
  record.origin = Origin::Corrected;
  record.scored = true;
  record.rank = 3;
  record.round = 12;
  record.surprisal = 2.5f;
  for (std::size_t i = 0; i < kCandidates; ++i)
    record.prediction.candidates[i] = {static_cast<Byte>(200 + i),
                                       0.5f / static_cast<float>(i + 1)};
  return record;
}

RoundRecord someRound() {
  RoundRecord round;
  round.index = 4;
  round.position = 99;
  round.draft = {'a', 0xff, 'c'};
  round.tokens = {{300, 0, 2}, {7, 2, 3}};
  round.accepted = 1;
  round.rejected = 1;
  round.ignored = 1;
  round.corrected = 2;
  round.testedTokens = 1;
  round.times = {0.125, 0.25, 0.5, 1, 2};
  return round;
}

}  // namespace

class ExportTest : public QObject {
  Q_OBJECT

 private slots:
  void aByteIsDescribedWithItsCandidates() {
    const Json json = describeByte(17, scoredByte());
    QVERIFY((keysOf(json) == std::set<std::string>{"index", "byte", "origin", "round",
                                                   "surprisal_bits", "rank", "candidates"}));
    QCOMPARE(json.at("index").get<int>(), 17);
    QCOMPARE(json.at("byte").get<int>(), 0xe9);
    QCOMPARE(json.at("origin").get<std::string>(), std::string("corrected"));
    QCOMPARE(json.at("round").get<int>(), 12);
    QCOMPARE(json.at("surprisal_bits").get<float>(), 2.5f);
    QCOMPARE(json.at("rank").get<int>(), 3);
    QCOMPARE(json.at("candidates").size(), kCandidates);
    QCOMPARE(json.at("candidates")[1][0].get<int>(), 201);
    QCOMPARE(json.at("candidates")[1][1].get<float>(), 0.25f);
  }

  void whatIsNotKnownIsNull() {
    ByteRecord record;
    record.byte = 'T';
    const Json json = describeByte(0, record);
    for (const char* key : {"round", "surprisal_bits", "rank"}) QVERIFY(json.at(key).is_null());
    QVERIFY(json.at("candidates").is_array() && json.at("candidates").empty());
    QCOMPARE(json.at("origin").get<std::string>(), std::string("prompt"));
  }

  void aRoundIsDescribedWithItsCounts() {
    const Json json = describeRound(someRound());
    const Json expected = {{"index", 4},    {"position", 99}, {"draft", {97, 255, 99}},
                           {"drafted", 3},  {"tested", 2},    {"accepted", 1},
                           {"rejected", 1}, {"ignored", 1},   {"corrected", 2},
                           {"bonus", 0}};
    for (const auto& [key, value] : expected.items()) QVERIFY2(json.at(key) == value, key.c_str());
    QVERIFY((json.at("tokens") ==
             Json{{{"id", 300}, {"begin", 0}, {"end", 2}}, {{"id", 7}, {"begin", 2}, {"end", 3}}}));
    QVERIFY((json.at("seconds") == Json{{"draft", 0.125},
                                        {"verify", 0.25},
                                        {"correct", 0.5},
                                        {"rollback", 1.0},
                                        {"total", 2.0}}));
  }

  void totalsAreThoseOfTheRounds() {
    SpeculationTotals totals;
    totals.add(someRound());
    totals.add(someRound());
    const Json json = describeTotals(totals, 120, 4);
    const Json expected = {{"bytes", 120},
                           {"seconds", 4.0},
                           {"bytes_per_second", 30.0},
                           {"rounds", 2},
                           {"drafted", 6},
                           {"tested", 4},
                           {"accepted", 2},
                           {"rejected", 2},
                           {"ignored", 2},
                           {"corrected", 4},
                           {"bonus", 0},
                           {"drafted_tokens", 4},
                           {"tested_tokens", 2},
                           {"accepted_tokens", 0},
                           {"acceptance", 0.5},
                           {"token_acceptance", 0.0},
                           {"mean_accepted_length", 1.0},
                           {"bytes_per_round", 3.0},
                           {"tested_at", {2, 2}},
                           {"accepted_at", {2, 0}},
                           {"seconds_draft", 0.25},
                           {"seconds_verify", 0.5},
                           {"seconds_correct", 1.0},
                           {"seconds_rollback", 2.0},
                           {"seconds_rounds", 4.0}};
    for (const auto& [key, value] : expected.items()) QVERIFY2(json.at(key) == value, key.c_str());
    const Json none = describeTotals({}, 0, 0);
    QCOMPARE(none.at("bytes_per_second").get<double>(), 0.0);
    QCOMPARE(none.at("acceptance").get<double>(), 0.0);
  }

  void settingsAreComplete() {
    GenerationSettings settings;
    settings.speculation = Speculation::TopBeta;
    settings.draftTokens = 6;
    settings.beta = 2;
    settings.healing = false;
    settings.leastConfidence = 0.25;
    settings.cutsDrafts = false;
    settings.sampler = {.temperature = 0.5,
                        .topK = 40,
                        .topP = 0.75,
                        .minP = 0.125,
                        .repetitionPenalty = 1.25,
                        .repetitionWindow = 32,
                        .seed = ~std::uint64_t{0}};
    const Json expected = {{"speculate", "topb"},
                           {"draft_tokens", 6},
                           {"beta", 2},
                           {"healing", false},
                           {"draft_confidence", 0.25},
                           {"cuts_drafts", false},
                           {"temperature", 0.5},
                           {"top_k", 40},
                           {"top_p", 0.75},
                           {"min_p", 0.125},
                           {"repetition_penalty", 1.25},
                           {"repetition_window", 32},
                           {"seed", ~std::uint64_t{0}}};
    QVERIFY(describeSettings(settings) == expected);
    settings.speculation = Speculation::Exact;
    QVERIFY(describeSettings(settings).at("speculate") == "exact");
    QVERIFY(describeSettings({}).at("speculate") == "off");
  }

  void aModelIsDescribedByShapeAndHash() {
    const auto model = openModel(goldenFolder("odd-shapes"), WeightPrecision::BFloat16);
    const Json json = describeModel(described(*model));
    const Json expected = {
        {"name", "odd-shapes"},  {"parameters", model->config().parameterCount()},
        {"vocab_size", 256},     {"d_model", 40},
        {"d_inner", 120},        {"d_state", 8},
        {"d_conv", 3},           {"dt_rank", 5},
        {"layers", 2},           {"dtype", "bf16"},
        {"stored_dtype", "F32"}, {"device", model->info().device}};
    for (const auto& [key, value] : expected.items()) QVERIFY2(json.at(key) == value, key.c_str());
    QCOMPARE(json.at("hash").get<std::string>(),
             hashOfFiles({goldenFolder("odd-shapes") / "model.safetensors"}));
    QVERIFY(describeModel({model->config(), model->info(), "abc"}).at("hash") == "abc");
    QVERIFY(describeModel(described(*tinyByteModel())).at("hash").is_null());
  }

  void theHashFollowsEveryByteOfTheWeights() {
    const TemporaryFolder folder;
    writeModel(folder.path(), smallConfig(), randomTensors(smallConfig(), 1));
    const auto hash = [&] {
      return describeModel(described(*openModel(folder.path()))).at("hash");
    };
    const Json original = hash();
    QVERIFY(hash() == original);
    std::string content = readFile(folder / "model.safetensors");
    content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 1);
    writeFile(folder / "model.safetensors", content);
    QVERIFY(hash() != original);
  }

  void namesThatAreNotUtf8DoNotStopAnExport() {
    const TemporaryFolder folder;
    const auto path = folder / "m\xff\xfeodel \xc3";
    writeModel(path, smallConfig(), randomTensors(smallConfig(), 1));
    const auto model = openModel(path);
    const std::string text = toJsonText({{"model", describeModel(described(*model))}});
    const Json back = Json::parse(text);  // throws for what is not UTF-8
    QVERIFY(back.at("model").at("name").get<std::string>().starts_with("m\uFFFD"));
    QCOMPARE(Json::parse(toJsonText("caf\u00e9")).get<std::string>(), std::string("caf\u00e9"));
  }

  void theProgramHasAVersion() {
    const QStringList parts = QString::fromStdString(programVersion()).split('.');
    QCOMPARE(parts.size(), 3);
    for (const QString& part : parts) {
      bool isNumber = false;
      part.toInt(&isNumber);
      QVERIFY(isNumber);
    }
  }
};

QTEST_GUILESS_MAIN(ExportTest)
#include "test_export.moc"
