// State as a value and as a file.
#include <QtTest>

#include "engine/error.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

/// A model and a state that has read 20 bytes.
struct Read20 {
  Read20()
      : model(openModel(goldenFolder("odd-shapes"))),
        runner(model->newRunner()),
        state(model->newState()) {
    Random random(3);
    runner->advance(state, state, random.tokens(20, 256), {});
  }
  StateShape shape() const { return state.shape(); }

  std::shared_ptr<const Model> model;
  std::unique_ptr<Runner> runner;
  State state;
};

/// Checks that loading fails with a message that names the file.
bool refuses(const std::filesystem::path& file, const StateShape& shape) {
  const auto error = thrown<FormatError>([&] { State::load(file, shape); });
  return error && error->file() == file && mentions(error->what(), file.string());
}

}  // namespace

class StateTest : public QObject {
  Q_OBJECT

 private slots:
  void aNewStateIsZeroWhateverTheModel() {
    const Read20 read;
    const State fresh = read.model->newState();
    QCOMPARE(fresh.position(), std::uint64_t{0});
    // 2 layers of 120 channels, padded to 128, with 8 states and 2 inputs each.
    QCOMPARE(fresh.bytes(), std::size_t{2 * 128 * (8 + 2) * 4});
    for (std::size_t i = 0; i < fresh.bytes() / sizeof(float); ++i)
      QCOMPARE(fresh.hidden(0)[i], 0.0f);
  }

  /// Devices need not be sent what nobody touched.
  void knowsWhetherItWasTouched() {
    State state{StateShape(smallConfig())};
    QVERIFY(state.isUntouched());
    QVERIFY(State(state).isUntouched());
    const TemporaryFolder folder;
    state.save(folder / "state");
    QVERIFY(!State::load(folder / "state", state.shape()).isUntouched());
    State other;
    other = state;
    QVERIFY(other.isUntouched());
    state.hidden(0)[0] = 1;
    QVERIFY(!state.isUntouched());
    other = state;
    QVERIFY(!other.isUntouched());
    QVERIFY(!State(state).isUntouched());
  }
  void theSizeDoesNotDependOnTheText() {
    const Read20 read;
    QCOMPARE(read.state.bytes(), read.model->newState().bytes());
    QCOMPARE(read.state.position(), std::uint64_t{20});
  }

  void copiesAreEqualUntilOneChanges() {
    const Read20 read;
    State copy = read.state;
    QVERIFY(copy == read.state);
    copy.hidden(1)[5] += 1;
    QVERIFY(!(copy == read.state));
    QVERIFY(read.state.hidden(1)[5] != copy.hidden(1)[5]);
    copy = read.state;
    QVERIFY(copy == read.state);
    copy.setPosition(21);
    QVERIFY(!(copy == read.state));
  }

  void equalityIsBitwise() {
    const Read20 read;
    State zero(read.shape());
    State minusZero(read.shape());
    minusZero.hidden(0)[0] = -0.0f;
    QVERIFY(!(zero == minusZero));
    const State other{StateShape(smallConfig())};
    QVERIFY(!(zero == other));
  }

  void aFileBringsBackEveryBit() {
    const Read20 read;
    const TemporaryFolder folder;
    State odd = read.state;
    odd.hidden(0)[3] = -0.0f;
    odd.hidden(0)[4] = std::numeric_limits<float>::denorm_min();
    odd.setPosition(std::uint64_t{1} << 40);
    odd.save(folder / "state");
    QVERIFY(State::load(folder / "state", read.shape()) == odd);
    read.state.save(folder / "state");  // replaces
    QVERIFY(State::load(folder / "state", read.shape()) == read.state);
    QCOMPARE(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  }

  void aLoadedStateGoesOnWithTheSameBits() {
    Read20 read;
    const TemporaryFolder folder;
    read.state.save(folder / "state");
    State loaded = State::load(folder / "state", read.shape());
    Random random(4);
    const std::vector<Token> more = random.tokens(30, 256);
    read.runner->advance(read.state, read.state, more, {});
    const std::vector<float> expected(read.runner->logits(29).begin(),
                                      read.runner->logits(29).end());
    const auto another = openModel(goldenFolder("odd-shapes"));
    const auto runner = another->newRunner();
    runner->advance(loaded, loaded, more, {});
    QVERIFY(loaded == read.state);
    QVERIFY(std::ranges::equal(runner->logits(29), expected));
  }

  void refusesTheStateOfAnotherShape() {
    const Read20 read;
    const TemporaryFolder folder;
    read.state.save(folder / "state");
    const ModelConfig& config = read.model->config();
    ModelConfig layers = config, channels = config, states = config, taps = config;
    ++layers.layers;
    --channels.dInner;  // the same padded size
    ++states.dState;
    ++taps.dConv;
    for (const ModelConfig& other : {layers, channels, states, taps}) {
      const StateShape shape(other);
      QVERIFY(refuses(folder / "state", shape));
      const auto error = thrown<FormatError>([&] { State::load(folder / "state", shape); });
      QVERIFY(mentions(error->expected(), std::to_string(other.dInner) + " channels"));
      QVERIFY(mentions(error->found(), "2 layers", "120 channels", "8 states", "2 inputs"));
    }
  }

  void refusesEveryTruncation() {
    const Read20 read;
    const TemporaryFolder folder;
    read.state.save(folder / "state");
    const std::string whole = readFile(folder / "state");
    Random random(5);
    std::vector<std::size_t> sizes{whole.size() - 1, whole.size() - 4};
    for (std::size_t size = 0; size < 64; ++size) sizes.push_back(size);
    for (int i = 0; i < 40; ++i) sizes.push_back(random.below(whole.size()));
    for (const std::size_t size : sizes) {
      writeFile(folder / "cut", whole.substr(0, size));
      QVERIFY2(refuses(folder / "cut", read.shape()), qPrintable(QString::number(size)));
    }
    writeFile(folder / "cut", whole + "x");
    QVERIFY(refuses(folder / "cut", read.shape()));
  }

  void refusesAFlippedByteAmongTheValues() {
    const Read20 read;
    const TemporaryFolder folder;
    read.state.save(folder / "state");
    const std::string whole = readFile(folder / "state");
    Random random(6);
    for (int i = 0; i < 100; ++i) {
      std::string damaged = whole;
      char& byte = damaged[64 + random.below(whole.size() - 64)];
      byte = static_cast<char>(byte ^ (1 << random.below(8)));
      writeFile(folder / "damaged", damaged);
      QVERIFY(refuses(folder / "damaged", read.shape()));
    }
  }

  void refusesAFlippedByteAnywhereInTheHeader() {
    const Read20 read;
    const TemporaryFolder folder;
    read.state.save(folder / "state");
    const std::string whole = readFile(folder / "state");
    for (std::size_t i = 0; i < 64; ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
      writeFile(folder / "damaged", damaged);
      QVERIFY2(refuses(folder / "damaged", read.shape()), qPrintable(QString("byte %1").arg(i)));
    }
  }

  void refusesOtherFiles() {
    const Read20 read;
    const TemporaryFolder folder;
    const auto golden = goldenFolder("odd-shapes");
    for (const char* name : {"config.json", "model.safetensors"})
      QVERIFY(refuses(golden / name, read.shape()));
    writeFile(folder / "empty", "");
    QVERIFY(refuses(folder / "empty", read.shape()));
    QVERIFY(thrown<FileError>([&] { State::load(folder / "none", read.shape()); }));
    QVERIFY(thrown<FileError>([&] { State::load(folder.path(), read.shape()); }));
  }

  void aFailedSaveLeavesNothingBehind() {
    const Read20 read;
    const TemporaryFolder folder;
    const auto missing = folder / "missing";
    const auto error = thrown<FileError>([&] { read.state.save(missing / "state"); });
    QVERIFY(error);
    QVERIFY(error->file() == missing / "state");
    QVERIFY(mentions(error->what(), (missing / "state").string()));
    QVERIFY(!std::filesystem::exists(missing));
    // A folder in the way: the temporary file is written, but cannot take its place.
    std::filesystem::create_directory(folder / "taken");
    QVERIFY(thrown<FileError>([&] { read.state.save(folder / "taken"); }));
    QCOMPARE(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  }
};

QTEST_GUILESS_MAIN(StateTest)
#include "test_state.moc"
