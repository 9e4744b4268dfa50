// Words that several parts of the page share. Words of a single view are in the view's module.

// [English, Chinese] for each key; {one, other} if English distinguishes singular and plural.
export const WORDS = {
  "skip": ["Skip to the content", "跳到内容"],
  "tabs": ["Parts of this page", "页面栏目"],

  "language.switch": ["切换到中文", "Switch to English"],
  "language.other": ["中文", "English"],

  "theme.light": ["Use the light theme", "使用浅色主题"],
  "theme.dark": ["Use the dark theme", "使用深色主题"],
  "unready": ["The service is not ready: {reason}.", "服务未就绪：{reason}。"],

  "loading": ["Loading…", "加载中…"],
  "retry": ["Try again", "重试"],
  "cancel": ["Cancel", "取消"],
  "category": ["Category", "类别"],
  "topics": ["Topics", "话题"],
  "none": ["none", "无"],
  "score": ["Score {score}", "得分 {score}"],
  "hidden": ["Hidden", "已隐藏"],
  "untitled": ["Untitled note", "无标题笔记"],
  "more": ["Show all", "显示全部"],

  "key.heading": ["API key", "API 密钥"],
  "key.first": [
    "This server needs an API key. The key is kept only until you close this tab.",
    "此服务需要 API 密钥。密钥只保留到关闭此标签页为止，不会存到别处。",
  ],
  "key.wrong": ["The server did not accept this key. Try another one.", "服务不接受这个密钥，请换一个。"],
  "key.label": ["Key", "密钥"],
  "key.use": ["Use this key", "使用此密钥"],
  "key.enter": ["Enter a key", "输入密钥"],
  "key.forget": ["Forget the API key", "忘记 API 密钥"],
  "key.forgotten": ["The key is forgotten.", "密钥已忘记。"],

  "error.network": ["The server cannot be reached.", "无法连接服务。"],
  "error.401": ["This needs an API key.", "需要 API 密钥。"],
  "error.403": ["This key does not allow that.", "此密钥没有权限。"],
  "error.404": ["Not found.", "未找到。"],
  "error.busy": ["The server is busy.", "服务繁忙。"],
  "error.wait": [{ one: "Try again in {n} second.", other: "Try again in {n} seconds." }, "请在 {n} 秒后重试。"],
  "error.other": ["That did not work.", "操作未成功。"],
};

// The server describes in English what recommendations are based on; these are its phrases.
export const BASIS = [
  [/related to ([\d,]+) opened notes?/, "与打开过的 $1 篇笔记相关"],
  [/popular and fresh notes/, "热门和最新的笔记"],
  [/popular notes/, "热门笔记"],
  [/not ranked/, "未排序"],
  [/ranked for a typical user/, "按普通用户的喜好排序"],
  [/ranked by code and history/, "按编码和历史排序"],
  [/ranked by code/, "按编码排序"],
  [/ranked by history/, "按历史排序"],
  [/blended with similarity/, "并结合相似度"],
  [/, /g, "，"],
];
