"""The tooltips of the status page: what each word and column means. English from `ulak.models.meanings`, Turkish here.

Keys are `means.<group>.<word>`; a test checks that both languages have every one.
"""

from collections.abc import Mapping
from typing import Final

from ulak.models import meanings

ENGLISH: Final[Mapping[str, str]] = {
    f"means.{group}.{word}": meaning
    for group, words in (
        ("status", meanings.STATUSES),
        ("reason", meanings.REASONS),
        ("source", meanings.SOURCES),
        ("granularity", meanings.GRANULARITIES),
        ("message_time_source", meanings.TIME_SOURCES),
        ("field", meanings.COLUMNS),
    )
    for word, meaning in words.items()
}

TURKISH: Final[Mapping[str, str]] = {
    "means.status.scheduled": "Daha sonra gönderilmek üzere kabul edildi; henüz gönderilmedi. Yeni rapor bekleniyor.",
    "means.status.enroute": "Sağlayıcıya ya da operatöre verildi, sonucu henüz belli değil. Yeni rapor bekleniyor.",
    "means.status.unknown": "Sağlayıcı belgelenmemiş bir durum kodu kullanıyor: koda bakın. Yeni rapor bekleniyor.",
    "means.status.unreported": "Geçerlilik süresi doldu, sağlayıcı sonuç bildirmedi. Kesindir ama geç gelen bir rapor "
    "bunun yerine geçer; ne iletildiğini ne de iletilemediğini kanıtlar.",
    "means.status.sent": "Gönderildi; sağlayıcı bunun için iletim raporu vermiyor, ulaşıp ulaşmadığı bilinemez. "
    "Kesindir ama sonuç bildiren bir rapor bunun yerine geçer.",
    "means.status.delivered": "Mesajın ulaştığını operatör ya da cihaz onayladı. Kesin.",
    "means.status.undeliverable": "Mesaj alıcıya ulaşmadı. Kesin.",
    "means.status.expired": "Mesaj geçerlilik süresi içinde iletilemedi. Kesin.",
    "means.status.rejected": "Sağlayıcı ya da operatör mesajı reddetti; mesaj hiç teslim edilmedi. Kesin.",
    "means.status.partially_delivered": "Yalnızca siparişlerde: mesajların bir bölümü iletildi, bir bölümü "
    "iletilemedi. Kesin.",
    "means.status.read": "Alıcı mesajı açtı. Kesin; iletilmiş olmayı da kapsar.",
    "means.reason.invalid_number": "Numara yok, hatalı yazılmış ya da bir aboneye veya kullanıcıya ait değil.",
    "means.reason.absent": "Aboneye ulaşılamadı: telefon kapalı, kapsama dışında ya da hat pasif.",
    "means.reason.handset": "Telefon mesajı alamadı; örneğin belleği dolu.",
    "means.reason.network": "Operatör şebekesinde ya da operatörler arasında arıza.",
    "means.reason.content": "Metin, gönderici adı ya da mesajın biçimi reddedildi.",
    "means.reason.opted_out": "Kişi bu tür mesajları kabul etmiyor (örneğin İYS kaydına göre).",
    "means.reason.blacklisted": "Numara, sağlayıcının ya da göndericinin kara listesinde.",
    "means.reason.quota": "Kota, limit ya da kredi tükendi.",
    "means.reason.sms_barred": "Hat mesaj alamıyor: hizmet kapalı ya da tarifede yok.",
    "means.reason.expired": "Mesaj iletilmeden geçerlilik süresi doldu; başka bir neden bildirilmedi.",
    "means.reason.test": "Hiçbir zaman iletilmeyen bir deneme mesajı.",
    "means.reason.other": "Başka bir neden: sağlayıcının hata ve durum koduna bakın.",
    "means.source.poll": "Bir sorguya verilen yanıt.",
    "means.source.callback": "Sağlayıcının web kancası (webhook) çağrısı.",
    "means.source.send_reply": "Gönderim isteğine verilen, göndericinin ilettiği yanıt.",
    "means.source.ours": "Ulak'ın kendi sonucu: geçerlilik süresi rapor gelmeden doldu.",
    "means.granularity.message": "Bir alıcıya giden tek mesaj.",
    "means.granularity.order": "Sayılarıyla birlikte bir sipariş (gönderim, kampanya); mesajları ayrı satırlardır.",
    "means.granularity.conversation": "Bir kişinin bir başkasına bir UTC gününde kaç mesaj gönderdiği; iletim raporu "
    "değildir.",
    "means.message_time_source.own": "Satırın kendi gönderim zamanı.",
    "means.message_time_source.order": "Mesajın siparişinin gönderim zamanı; sağlayıcı mesaj için zaman bildirmedi.",
    "means.message_time_source.first_seen": "İlk görüldüğü an: ne satırın ne siparişinin gönderim zamanı bildirildi.",
    "means.field.id": "Ulak'ın satır numarası. Yeniden kullanılmaz, satır yaşadıkça değişmez.",
    "means.field.account_id": "accounts.toml dosyasındaki, mesajın gönderildiği hesap.",
    "means.field.provider": "Hesabın sağlayıcısı.",
    "means.field.granularity": "Satırın konusu: mesaj, sipariş ya da konuşma. Bir sorguda yalnızca birini sayın.",
    "means.field.provider_key": "Sağlayıcının mesaj, sipariş ya da konuşma numarası; hesap ve tür içinde tektir.",
    "means.field.parent_key": "Mesajlarda siparişin ya da gönderimin numarası, konuşmalarda yazan müşteri.",
    "means.field.client_ref": "Biliniyorsa göndericinin kendi referansı. Tek olmayabilir.",
    "means.field.recipient": "Alıcı: telefon numarasıysa E.164 biçiminde, değilse sağlayıcının kişi numarası.",
    "means.field.status": "Bütün sağlayıcılar için aynı olan sözcüklerle durum.",
    "means.field.is_final": "Yeni rapor beklenip beklenmediği. Daha güçlü bir rapor kesin durumun yerine geçebilir.",
    "means.field.reason": "Mesajın neden ulaşmadığı; ulaştıysa ya da neden bilinmiyorsa boştur.",
    "means.field.provider_status": "Sağlayıcının kendi durum kodu, bildirildiği gibi.",
    "means.field.provider_error": "Sağlayıcının kendi hata kodu, bildirildiği gibi; yoksa boştur.",
    "means.field.conflict": "Sağlayıcı aynı mesaj için çelişen kesin durumlar bildirdi; geçmişte görülür.",
    "means.field.total": "Siparişlerde alıcı sayısı, konuşmalarda o gün sayılan mesajlar.",
    "means.field.delivered": "Siparişlerde iletildiği bildirilen alıcılar.",
    "means.field.undelivered": "Siparişlerde iletilemediği bildirilen alıcılar.",
    "means.field.waiting": "Siparişlerde sonucu henüz belli olmayan alıcılar.",
    "means.field.segments": "Mesajın kaç SMS parçası tuttuğu.",
    "means.field.credits": "Sağlayıcının kendi kredisiyle fiyatı. Gerçekten alınan tutar olup olmadığı sağlayıcıya "
    "göre değişir; toplamadan önce sağlayıcının sayfasını okuyun.",
    "means.field.sent_at": "Sağlayıcının bildirdiği gönderim zamanı; bildirmiyorsa boştur.",
    "means.field.done_at": "Sağlayıcının bildirdiği kesinleşme zamanı; bildirmiyorsa boştur.",
    "means.field.valid_until": "Sağlayıcının iletmeyi denemeyi bırakacağı zaman; bildirmiyorsa boştur.",
    "means.field.message_time": "Gruplamak ve süzmek için zaman: satırın kendi gönderim zamanı, yoksa siparişininki, o "
    "da yoksa ilk görüldüğü an. Satır kesinleşince değişmez.",
    "means.field.message_time_source": "Zamanın nereden geldiği: satırın kendisi, siparişi ya da ilk görülme.",
    "means.field.first_seen_at": "Ulak'ın ilk raporu kaydettiği an.",
    "means.field.changed_at": "Satırın bir alanının son değiştiği an.",
    "means.field.changed_in": "Son değişikliğin veritabanı işlemi. İç kullanım: değişiklik akışının sırası.",
    "means.field.extra": "Sağlayıcının diğer alanları; mesaj metinleri ve adlar olmadan.",
}
