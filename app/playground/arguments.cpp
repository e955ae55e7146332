#include "app/playground/arguments.h"

#include <QCommandLineParser>
#include <QCoreApplication>
#include <QFile>
#include <cstdio>
#include <cstdlib>

namespace mb::app {

namespace {

constexpr int kBadArguments = 2;

[[noreturn]] void refuse(const QString& problem) {
  std::fprintf(stderr, "mambabyte-playground: %s\n", qPrintable(problem));
  std::exit(kBadArguments);
}

QString tr(const char* text) {
  return QCoreApplication::translate("mb::app::Arguments", text);
}

template <class Number, class Convert>
std::optional<Number> number(const QCommandLineParser& parser, const QString& name,
                             Convert convert) {
  if (!parser.isSet(name)) return std::nullopt;
  bool ok = false;
  const Number value = static_cast<Number>(convert(parser.value(name), &ok));
  if (!ok) refuse(tr("--%1 expects a number, found “%2”").arg(name, parser.value(name)));
  return value;
}

template <class Number>
std::optional<Number> whole(const QCommandLineParser& parser, const QString& name) {
  return number<Number>(parser, name,
                        [](const QString& text, bool* ok) { return text.toULongLong(ok); });
}

/// The value that a word stands for.
template <class Value>
std::optional<Value> word(const QCommandLineParser& parser, const QString& name,
                          std::initializer_list<std::pair<const char*, Value>> words) {
  if (!parser.isSet(name)) return std::nullopt;
  QStringList known;
  for (const auto& [text, value] : words) {
    if (parser.value(name) == QLatin1String(text)) return value;
    known += QLatin1String(text);
  }
  refuse(tr("--%1 expects %2, found “%3”").arg(name, known.join(tr(" or ")), parser.value(name)));
}

std::optional<QByteArray> readPrompt(const QCommandLineParser& parser) {
  if (parser.isSet("prompt-file")) {
    QFile file(parser.value("prompt-file"));
    if (!file.open(QIODevice::ReadOnly))
      refuse(tr("%1 cannot be read: %2").arg(file.fileName(), file.errorString()));
    return file.readAll();
  }
  if (parser.isSet("prompt")) return parser.value("prompt").toUtf8();
  return std::nullopt;
}

std::optional<QSize> readSize(const QCommandLineParser& parser) {
  if (!parser.isSet("size")) return std::nullopt;
  const QStringList parts = parser.value("size").split(u'x');
  const QSize size(parts.value(0).toInt(), parts.value(1).toInt());
  if (size.width() < 400 || size.height() < 300)
    refuse(tr("--size expects WIDTHxHEIGHT of at least 400x300, found “%1”")
               .arg(parser.value("size")));
  return size;
}

void addOptions(QCommandLineParser& parser) {
  parser.addOptions({
      {"headless", tr("Without a window: generate to the terminal and write a screenshot")},
      {"model", tr("Verifier folder"), tr("folder")},
      {"draft", tr("Drafter folder"), tr("folder")},
      {"no-draft", tr("Open the verifier alone")},
      {"device", tr("auto, cpu or cuda"), tr("device")},
      {"prompt", tr("Text to start with"), tr("text")},
      {"prompt-file", tr("File to start with"), tr("file")},
      {"bytes", tr("Bytes to write"), tr("number")},
      {"speculate", tr("off, exact or topb"), tr("mode")},
      {"draft-tokens", tr("Tokens drafted a round"), tr("number")},
      {"temperature", tr("Temperature; 0 is greedy"), tr("number")},
      {"top-k", tr("Keep the k most probable bytes; 0 keeps all"), tr("number")},
      {"seed", tr("Same seed, same bytes"), tr("number")},
      {"theme", tr("system, light or dark"), tr("theme")},
      {"size", tr("Size of the window"), tr("WIDTHxHEIGHT")},
      {"screenshot", tr("With --headless: where the picture goes"), tr("file")},
      {"train", tr("With --headless: train on this text, and take the picture half-way"),
       tr("file")},
  });
}

}  // namespace

void Arguments::applyTo(ui::RunSettings& settings) const {
  GenerationSettings& generation = settings.generation;
  if (bytes) settings.bytes = *bytes;
  if (speculation) generation.speculation = *speculation;
  if (draftTokens) generation.draftTokens = *draftTokens;
  if (temperature) generation.sampler.temperature = *temperature;
  if (topK) generation.sampler.topK = *topK;
  if (seed) generation.sampler.seed = *seed;
}

Arguments parseArguments(const QCoreApplication& application) {
  QCommandLineParser parser;
  parser.setApplicationDescription(
      tr("Watch a byte-level state-space model write, from the inside"));
  parser.addHelpOption();
  parser.addVersionOption();
  addOptions(parser);
  if (!parser.parse(application.arguments())) refuse(parser.errorText());
  if (parser.isSet("help")) parser.showHelp(0);
  if (parser.isSet("version")) {
    std::printf("mambabyte-playground %s\n", qPrintable(QCoreApplication::applicationVersion()));
    std::exit(0);
  }
  if (!parser.positionalArguments().isEmpty())
    refuse(tr("unexpected argument “%1”").arg(parser.positionalArguments().constFirst()));

  Arguments arguments;
  arguments.headless = parser.isSet("headless");
  arguments.model = parser.value("model");
  arguments.draft = parser.value("draft");
  arguments.noDraft = parser.isSet("no-draft");
  arguments.prompt = readPrompt(parser);
  arguments.bytes = whole<std::size_t>(parser, "bytes");
  arguments.draftTokens = whole<std::size_t>(parser, "draft-tokens");
  arguments.topK = whole<std::size_t>(parser, "top-k");
  arguments.seed = whole<std::uint64_t>(parser, "seed");
  arguments.temperature = number<double>(
      parser, "temperature", [](const QString& text, bool* ok) { return text.toDouble(ok); });
  arguments.speculation = word<Speculation>(
      parser, "speculate",
      {{"off", Speculation::Off}, {"exact", Speculation::Exact}, {"topb", Speculation::TopBeta}});
  arguments.device = word<DeviceKind>(
      parser, "device",
      {{"auto", DeviceKind::Auto}, {"cpu", DeviceKind::Cpu}, {"cuda", DeviceKind::Cuda}});
  arguments.theme = word<ui::ThemeMode>(parser, "theme",
                                        {{"system", ui::ThemeMode::System},
                                         {"light", ui::ThemeMode::Light},
                                         {"dark", ui::ThemeMode::Dark}});
  arguments.size = readSize(parser);
  arguments.screenshot = parser.value("screenshot");
  arguments.train = parser.value("train");
  return arguments;
}

}  // namespace mb::app
