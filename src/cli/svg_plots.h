// Plots as SVG that stands in a page: well-formed, without scripts, in the colors of the page's style
// sheet (classes ink, faint, line, heat, bar, after), or in a file of its own; each with a title and
// a description.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem::cli {

// Text as the content or an attribute of an element, in UTF-8: what XML does not allow becomes
// U+FFFD.
std::string escape_xml(std::string_view text);

struct PlotTitle {
  // Of the plot among those of a page, for its title and its description.
  std::string id;
  std::string title;
  std::string description;
};

struct HeatCell {
  std::size_t row = 0;
  std::size_t column = 0;
  // In [0, 1], from faint to full.
  double level = 0;
  // What a pointer that rests on it shows.
  std::string label;
};
struct HeatGrid {
  std::vector<std::string> rows;
  std::vector<std::string> columns;
  std::vector<HeatCell> cells;
  // What the levels 0, 0.25, … 1 stand for.
  std::vector<std::string> legend;
};
std::string draw(const PlotTitle& title, const HeatGrid& grid);

struct Bar {
  std::string label;
  // The value as text, at the end of the bar.
  std::string text;
  double value = 0;
  double error = 0;
  // What it became.
  std::optional<double> after = {};
};
// Horizontal bars, one below the other, from zero.
std::string draw(const PlotTitle& title, const std::vector<Bar>& bars);

struct Curve {
  std::string name;
  // (x, y), both in [0, 1].
  std::vector<std::pair<double, double>> points;
};
// In a square whose axes go from 0 to 100 %.
std::string draw(const PlotTitle& title, const std::vector<Curve>& curves, const std::string& x,
                 const std::string& y);

// Boxes in rows along an axis of time.
struct GanttBox {
  std::size_t row = 0;
  double begin = 0;
  double end = 0;
  // Which of the legend's entries it is, and how full its color: in [0, 1].
  std::size_t kind = 0;
  double level = 1;
  // What a pointer that rests on it shows.
  std::string label;
};
struct Gantt {
  std::vector<std::string> rows;
  std::vector<GanttBox> boxes;
  // Where the axis ends; it begins at 0.
  double end = 0;
  std::string unit;
  // Up to three, empty ones for kinds without a box.
  std::vector<std::string> legend;
};
std::string draw(const PlotTitle& title, const Gantt& gantt);

// Any elements, in classes as above, in a view box that begins at 0.
std::string draw(const PlotTitle& title, double width, double height, const std::string& content);

// A plot as a file of its own, with a style sheet that follows the reader's light or dark colors.
std::string stand_alone(const std::string& plot);

}  // namespace tandem::cli
